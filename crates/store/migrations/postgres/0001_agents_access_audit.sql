-- Times are milliseconds since 1970, JSON is text. The same tables as on SQLite, less the partitions.
-- Names are compared byte by byte (collation C), as SQLite does.

-- One row: every change of an agent takes the next of `agents`, every change of who may enter the next of `access`.
CREATE TABLE versions (
    only_row BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (only_row),
    agents   BIGINT NOT NULL,
    access   BIGINT NOT NULL
);
INSERT INTO versions (agents, access) VALUES (0, 0);

-- An agent that left stays as `gone` with its version and token epoch: replicas learn of it, its tokens stay dead.
CREATE TABLE agents (
    tenant        TEXT COLLATE "C" NOT NULL,
    agent_id      TEXT COLLATE "C" NOT NULL,
    version       BIGINT NOT NULL,
    gone          BOOLEAN NOT NULL,
    name          TEXT COLLATE "C" NOT NULL,
    session_id    TEXT COLLATE "C",
    capabilities  TEXT COLLATE "C" NOT NULL,
    roles         TEXT COLLATE "C" NOT NULL,
    pool          TEXT COLLATE "C",
    delivery      TEXT COLLATE "C" NOT NULL,
    metadata      TEXT COLLATE "C" NOT NULL,
    public_key    TEXT COLLATE "C",
    paused        TEXT COLLATE "C",
    registered_at BIGINT NOT NULL,
    last_seen     BIGINT,
    token_epoch   BIGINT NOT NULL,
    PRIMARY KEY (tenant, agent_id)
) PARTITION BY HASH (tenant, agent_id);
CREATE TABLE agents_0 PARTITION OF agents FOR VALUES WITH (MODULUS 8, REMAINDER 0);
CREATE TABLE agents_1 PARTITION OF agents FOR VALUES WITH (MODULUS 8, REMAINDER 1);
CREATE TABLE agents_2 PARTITION OF agents FOR VALUES WITH (MODULUS 8, REMAINDER 2);
CREATE TABLE agents_3 PARTITION OF agents FOR VALUES WITH (MODULUS 8, REMAINDER 3);
CREATE TABLE agents_4 PARTITION OF agents FOR VALUES WITH (MODULUS 8, REMAINDER 4);
CREATE TABLE agents_5 PARTITION OF agents FOR VALUES WITH (MODULUS 8, REMAINDER 5);
CREATE TABLE agents_6 PARTITION OF agents FOR VALUES WITH (MODULUS 8, REMAINDER 6);
CREATE TABLE agents_7 PARTITION OF agents FOR VALUES WITH (MODULUS 8, REMAINDER 7);
CREATE INDEX agents_by_version ON agents (version);
CREATE INDEX agents_with_epoch ON agents (tenant, agent_id) WHERE token_epoch > 0;
CREATE INDEX agents_paused ON agents (tenant, agent_id) WHERE paused IS NOT NULL;

CREATE TABLE revoked_tokens (
    token_id   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    expires_at BIGINT NOT NULL
);
CREATE INDEX revoked_tokens_by_expiry ON revoked_tokens (expires_at);

-- The key that signs is the one that does not retire.
CREATE TABLE signing_keys (
    key_id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    public         BYTEA NOT NULL,
    sealed_private BYTEA NOT NULL,
    created_at     BIGINT NOT NULL,
    retires_at     BIGINT
);
CREATE UNIQUE INDEX signing_keys_one_signs ON signing_keys ((1)) WHERE retires_at IS NULL;

CREATE TABLE registration_keys (
    key_id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    secret_hash BYTEA NOT NULL UNIQUE,
    tenant      TEXT COLLATE "C" NOT NULL,
    roles       TEXT COLLATE "C" NOT NULL,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT,
    revoked     BOOLEAN NOT NULL
);
CREATE INDEX registration_keys_by_tenant ON registration_keys (tenant, key_id);

-- `run` is one process's life: a name that two processes share never makes them share an epoch.
CREATE TABLE audit_epochs (
    tenant      TEXT COLLATE "C" NOT NULL,
    writer      TEXT COLLATE "C" NOT NULL,
    epoch       BIGINT NOT NULL,
    run         TEXT COLLATE "C" NOT NULL,
    last_number BIGINT NOT NULL,
    last_at     BIGINT NOT NULL,
    closed      BOOLEAN NOT NULL,
    PRIMARY KEY (tenant, writer, epoch)
);

-- `recorded_at` never falls within an epoch, so that sealing by it keeps the order of numbers.
CREATE TABLE audit_records (
    tenant      TEXT COLLATE "C" NOT NULL,
    writer      TEXT COLLATE "C" NOT NULL,
    epoch       BIGINT NOT NULL,
    number      BIGINT NOT NULL CHECK (number > 0),
    recorded_at BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    actor_kind  TEXT COLLATE "C" NOT NULL,
    actor       TEXT COLLATE "C" NOT NULL,
    act         TEXT COLLATE "C" NOT NULL,
    target      TEXT COLLATE "C" NOT NULL,
    outcome     TEXT COLLATE "C" NOT NULL,
    salt        BYTEA,
    body        TEXT COLLATE "C",
    body_hash   TEXT COLLATE "C" NOT NULL,
    position    BIGINT,
    hash        TEXT COLLATE "C",
    PRIMARY KEY (tenant, writer, epoch, number)
) PARTITION BY HASH (tenant);
CREATE TABLE audit_records_0 PARTITION OF audit_records FOR VALUES WITH (MODULUS 8, REMAINDER 0);
CREATE TABLE audit_records_1 PARTITION OF audit_records FOR VALUES WITH (MODULUS 8, REMAINDER 1);
CREATE TABLE audit_records_2 PARTITION OF audit_records FOR VALUES WITH (MODULUS 8, REMAINDER 2);
CREATE TABLE audit_records_3 PARTITION OF audit_records FOR VALUES WITH (MODULUS 8, REMAINDER 3);
CREATE TABLE audit_records_4 PARTITION OF audit_records FOR VALUES WITH (MODULUS 8, REMAINDER 4);
CREATE TABLE audit_records_5 PARTITION OF audit_records FOR VALUES WITH (MODULUS 8, REMAINDER 5);
CREATE TABLE audit_records_6 PARTITION OF audit_records FOR VALUES WITH (MODULUS 8, REMAINDER 6);
CREATE TABLE audit_records_7 PARTITION OF audit_records FOR VALUES WITH (MODULUS 8, REMAINDER 7);
CREATE UNIQUE INDEX audit_records_by_position ON audit_records (tenant, position) WHERE position IS NOT NULL;
CREATE INDEX audit_records_unsealed ON audit_records (tenant, recorded_at, writer, epoch, number) WHERE position IS NULL;
CREATE INDEX audit_records_by_time ON audit_records (tenant, at);

CREATE TABLE audit_heads (
    tenant   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL,
    hash     TEXT COLLATE "C" NOT NULL
);
