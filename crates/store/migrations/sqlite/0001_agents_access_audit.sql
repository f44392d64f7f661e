-- Times are milliseconds since 1970, JSON is text. The same tables as on Postgres, where they are partitioned.

-- One row: every change of an agent takes the next of `agents`, every change of who may enter the next of `access`.
CREATE TABLE versions (
    only_row BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (only_row),
    agents   BIGINT NOT NULL,
    access   BIGINT NOT NULL
);
INSERT INTO versions (agents, access) VALUES (0, 0);

-- An agent that left stays as `gone` with its version and token epoch: replicas learn of it, its tokens stay dead.
CREATE TABLE agents (
    tenant        TEXT NOT NULL,
    agent_id      TEXT NOT NULL,
    version       BIGINT NOT NULL,
    gone          BOOLEAN NOT NULL,
    name          TEXT NOT NULL,
    session_id    TEXT,
    capabilities  TEXT NOT NULL,
    roles         TEXT NOT NULL,
    pool          TEXT,
    delivery      TEXT NOT NULL,
    metadata      TEXT NOT NULL,
    public_key    TEXT,
    paused        TEXT,
    registered_at BIGINT NOT NULL,
    last_seen     BIGINT,
    token_epoch   BIGINT NOT NULL,
    PRIMARY KEY (tenant, agent_id)
) WITHOUT ROWID;
CREATE INDEX agents_by_version ON agents (version);
CREATE INDEX agents_with_epoch ON agents (tenant, agent_id) WHERE token_epoch > 0;
CREATE INDEX agents_paused ON agents (tenant, agent_id) WHERE paused IS NOT NULL;

CREATE TABLE revoked_tokens (
    token_id   TEXT NOT NULL PRIMARY KEY,
    expires_at BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX revoked_tokens_by_expiry ON revoked_tokens (expires_at);

-- The key that signs is the one that does not retire.
CREATE TABLE signing_keys (
    key_id         TEXT NOT NULL PRIMARY KEY,
    public         BLOB NOT NULL,
    sealed_private BLOB NOT NULL,
    created_at     BIGINT NOT NULL,
    retires_at     BIGINT
);
CREATE UNIQUE INDEX signing_keys_one_signs ON signing_keys ((1)) WHERE retires_at IS NULL;

CREATE TABLE registration_keys (
    key_id      TEXT NOT NULL PRIMARY KEY,
    secret_hash BLOB NOT NULL UNIQUE,
    tenant      TEXT NOT NULL,
    roles       TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT,
    revoked     BOOLEAN NOT NULL
);
CREATE INDEX registration_keys_by_tenant ON registration_keys (tenant, key_id);

-- `run` is one process's life: a name that two processes share never makes them share an epoch.
CREATE TABLE audit_epochs (
    tenant      TEXT NOT NULL,
    writer      TEXT NOT NULL,
    epoch       BIGINT NOT NULL,
    run         TEXT NOT NULL,
    last_number BIGINT NOT NULL,
    last_at     BIGINT NOT NULL,
    closed      BOOLEAN NOT NULL,
    PRIMARY KEY (tenant, writer, epoch)
) WITHOUT ROWID;

-- `recorded_at` never falls within an epoch, so that sealing by it keeps the order of numbers.
CREATE TABLE audit_records (
    tenant      TEXT NOT NULL,
    writer      TEXT NOT NULL,
    epoch       BIGINT NOT NULL,
    number      BIGINT NOT NULL CHECK (number > 0),
    recorded_at BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    actor_kind  TEXT NOT NULL,
    actor       TEXT NOT NULL,
    act         TEXT NOT NULL,
    target      TEXT NOT NULL,
    outcome     TEXT NOT NULL,
    salt        BLOB,
    body        TEXT,
    body_hash   TEXT NOT NULL,
    position    BIGINT,
    hash        TEXT,
    PRIMARY KEY (tenant, writer, epoch, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX audit_records_by_position ON audit_records (tenant, position) WHERE position IS NOT NULL;
CREATE INDEX audit_records_unsealed ON audit_records (tenant, recorded_at, writer, epoch, number) WHERE position IS NULL;
CREATE INDEX audit_records_by_time ON audit_records (tenant, at);

CREATE TABLE audit_heads (
    tenant   TEXT NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL,
    hash     TEXT NOT NULL
) WITHOUT ROWID;
