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

-- `added_at` is the time of the checkpoint that the item came with, in microseconds since 1970. `tag` is a hash of its
-- place and id, if the item is a message with an id.
CREATE TABLE {items} (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL,
    channel TEXT NOT NULL,
    seq INTEGER NOT NULL,
    added_at INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    tag INTEGER,
    data BLOB NOT NULL,
    PRIMARY KEY (thread_id, checkpoint_ns, channel, seq)
);

-- Messages by their id.
CREATE INDEX {items_tagged} ON {items} (tag) WHERE tag IS NOT NULL;

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

-- The registry: what lists threads without a look at their state. Times are microseconds since 1970. `metadata` is what
-- was set explicitly, `run_metadata` what the config of the latest run says.
CREATE TABLE {threads} (
    thread_id TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    user_id TEXT,
    title TEXT,
    metadata TEXT NOT NULL DEFAULT '{}',
    run_metadata TEXT NOT NULL DEFAULT '{}'
);

CREATE INDEX {threads_updated} ON {threads} (updated_at, thread_id);

CREATE INDEX {threads_created} ON {threads} (created_at, thread_id);

CREATE INDEX {threads_user} ON {threads} (user_id, updated_at, thread_id) WHERE user_id IS NOT NULL;

-- Which threads may be interrupted or failed, for listing them by status.
CREATE INDEX {writes_status} ON {writes} (thread_id)
WHERE checkpoint_ns = '' AND channel IN ('__error__', '__interrupt__');

CREATE TABLE {current_threads} (
    user_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    PRIMARY KEY (user_id, agent)
);

CREATE INDEX {current_threads_thread} ON {current_threads} (thread_id);

-- The highest checkpoint id of threads that were deleted lately: late puts of runs that began before are refused.
CREATE TABLE {tombstones} (
    thread_id TEXT PRIMARY KEY,
    checkpoint_id TEXT NOT NULL,
    deleted_at INTEGER NOT NULL
);

CREATE INDEX {tombstones_age} ON {tombstones} (deleted_at);
