-- Checkpoints are narrow; what is large in them is items, each stored once.

CREATE TABLE {migrations} (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at TEXT NOT NULL
);

CREATE TABLE {checkpoints} (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL,
    checkpoint_id TEXT NOT NULL,
    parent_checkpoint_id TEXT,
    run_id TEXT,
    checkpoint BLOB NOT NULL,
    slots BLOB NOT NULL,
    metadata TEXT NOT NULL,
    metadata_exact BLOB,
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id)
);

-- Listings across threads, latest first.
CREATE INDEX {checkpoints_latest} ON {checkpoints} (checkpoint_id, thread_id, checkpoint_ns);

CREATE INDEX {checkpoints_run} ON {checkpoints} (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE {items} (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL,
    channel TEXT NOT NULL,
    seq INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (thread_id, checkpoint_ns, channel, seq)
);

-- No foreign key: a run may save writes before their checkpoint.
CREATE TABLE {writes} (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL,
    checkpoint_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    idx INTEGER NOT NULL,
    task_path TEXT NOT NULL,
    channel TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
);
