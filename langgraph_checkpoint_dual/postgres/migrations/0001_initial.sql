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

-- `added_at` is the time of the checkpoint that the item came with, in microseconds since 1970. `tag` is a hash of its
-- place and id, if the item is a message with an id.
CREATE TABLE {items} (
    thread_id TEXT COLLATE "C" NOT NULL,
    checkpoint_ns TEXT COLLATE "C" NOT NULL,
    channel TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    added_at BIGINT NOT NULL,
    checksum BIGINT NOT NULL,
    tag BIGINT,
    data BYTEA NOT NULL,
    PRIMARY KEY (thread_id, checkpoint_ns, channel, seq)
);

-- Messages by their id.
CREATE INDEX {items_tagged} ON {items} (tag) WHERE tag IS NOT NULL;

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

-- The registry: what lists threads without a look at their state. Times are microseconds since 1970. `metadata` is what
-- was set explicitly, `run_metadata` what the config of the latest run says.
CREATE TABLE {threads} (
    thread_id TEXT COLLATE "C" PRIMARY KEY,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    user_id TEXT COLLATE "C",
    title TEXT COLLATE "C",
    metadata JSONB NOT NULL DEFAULT '{}',
    run_metadata JSONB NOT NULL DEFAULT '{}'
);

CREATE INDEX {threads_updated} ON {threads} (updated_at, thread_id);

CREATE INDEX {threads_created} ON {threads} (created_at, thread_id);

CREATE INDEX {threads_user} ON {threads} (user_id, updated_at, thread_id) WHERE user_id IS NOT NULL;

-- Which threads may be interrupted or failed, for listing them by status.
CREATE INDEX {writes_status} ON {writes} (thread_id)
WHERE checkpoint_ns = '' AND channel IN ('__error__', '__interrupt__');

CREATE TABLE {current_threads} (
    user_id TEXT COLLATE "C" NOT NULL,
    agent TEXT COLLATE "C" NOT NULL,
    thread_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (user_id, agent)
);

CREATE INDEX {current_threads_thread} ON {current_threads} (thread_id);

-- The highest checkpoint id of threads that were deleted lately: late puts of runs that began before are refused.
CREATE TABLE {tombstones} (
    thread_id TEXT COLLATE "C" PRIMARY KEY,
    checkpoint_id TEXT COLLATE "C" NOT NULL,
    deleted_at BIGINT NOT NULL
);

CREATE INDEX {tombstones_age} ON {tombstones} (deleted_at);
