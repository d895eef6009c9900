-- Checkpoints are narrow; what is large in them is items, each stored once.
-- Ids are compared by their bytes, whatever the database's collation.

CREATE TABLE {migrations} (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE {checkpoints} (
    thread_id TEXT COLLATE "C" NOT NULL,
    checkpoint_ns TEXT COLLATE "C" NOT NULL,
    checkpoint_id TEXT COLLATE "C" NOT NULL,
    parent_checkpoint_id TEXT COLLATE "C",
    run_id TEXT COLLATE "C",
    checkpoint BYTEA NOT NULL,
    slots BYTEA NOT NULL,
    metadata JSONB NOT NULL,
    metadata_exact BYTEA,
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id)
);

-- Listings across threads, latest first.
CREATE INDEX {checkpoints_latest} ON {checkpoints} (checkpoint_id, thread_id, checkpoint_ns);

CREATE INDEX {checkpoints_run} ON {checkpoints} (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE {items} (
    thread_id TEXT COLLATE "C" NOT NULL,
    checkpoint_ns TEXT COLLATE "C" NOT NULL,
    channel TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    checksum BIGINT NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (thread_id, checkpoint_ns, channel, seq)
);

-- No foreign key: a run may save writes before their checkpoint.
CREATE TABLE {writes} (
    thread_id TEXT COLLATE "C" NOT NULL,
    checkpoint_ns TEXT COLLATE "C" NOT NULL,
    checkpoint_id TEXT COLLATE "C" NOT NULL,
    task_id TEXT COLLATE "C" NOT NULL,
    idx INTEGER NOT NULL,
    task_path TEXT COLLATE "C" NOT NULL,
    channel TEXT COLLATE "C" NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
);
