-- Mail: mailboxes, messages, what of them is where, receipts, requests; and what topics need.
--
-- A send must touch few pages, for each page it touches is written twice: so what grows knows a mailbox by number,
-- messages and deliveries are appended, and a delivery stands in one index until a clock has to look for it.
--
-- Mailboxes and deliveries are partitioned by agent. Messages and receipts are looked up by their own ids and belong to
-- many agents: there is nothing to part them by.

ALTER TABLE agents ADD COLUMN webhook_url TEXT COLLATE "C";
ALTER TABLE agents ADD COLUMN old_keys TEXT COLLATE "C" NOT NULL DEFAULT '[]';

CREATE SEQUENCE mailbox_numbers;

-- Made when mail first comes, and kept: `closed` once its agent has left, so that nothing can be sent to it any more.
-- `waiting` counts deliveries that are not settled. `turn` is where its round of priorities stands. What has a number
-- up to `since` was sent to an agent that left, before another took its id: it is not for that one to read.
CREATE TABLE mailboxes (
    mailbox BIGINT NOT NULL DEFAULT nextval('mailbox_numbers'),
    tenant  TEXT COLLATE "C" NOT NULL,
    sort    TEXT COLLATE "C" NOT NULL,
    name    TEXT COLLATE "C" NOT NULL,
    closed  BOOLEAN NOT NULL DEFAULT FALSE,
    waiting BIGINT NOT NULL DEFAULT 0,
    turn    BIGINT NOT NULL DEFAULT 0,
    since   BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, sort, name)
) PARTITION BY HASH (tenant, sort, name);
-- Room in each page for what is counted anew with every message.
CREATE TABLE mailboxes_0 PARTITION OF mailboxes FOR VALUES WITH (MODULUS 8, REMAINDER 0) WITH (fillfactor = 50);
CREATE TABLE mailboxes_1 PARTITION OF mailboxes FOR VALUES WITH (MODULUS 8, REMAINDER 1) WITH (fillfactor = 50);
CREATE TABLE mailboxes_2 PARTITION OF mailboxes FOR VALUES WITH (MODULUS 8, REMAINDER 2) WITH (fillfactor = 50);
CREATE TABLE mailboxes_3 PARTITION OF mailboxes FOR VALUES WITH (MODULUS 8, REMAINDER 3) WITH (fillfactor = 50);
CREATE TABLE mailboxes_4 PARTITION OF mailboxes FOR VALUES WITH (MODULUS 8, REMAINDER 4) WITH (fillfactor = 50);
CREATE TABLE mailboxes_5 PARTITION OF mailboxes FOR VALUES WITH (MODULUS 8, REMAINDER 5) WITH (fillfactor = 50);
CREATE TABLE mailboxes_6 PARTITION OF mailboxes FOR VALUES WITH (MODULUS 8, REMAINDER 6) WITH (fillfactor = 50);
CREATE TABLE mailboxes_7 PARTITION OF mailboxes FOR VALUES WITH (MODULUS 8, REMAINDER 7) WITH (fillfactor = 50);
CREATE INDEX mailboxes_by_number ON mailboxes (mailbox);

CREATE SEQUENCE message_numbers;

-- `mailbox`: the one it is for; null when it is for many, then `wide_messages` has them.
CREATE TABLE messages (
    number            BIGINT NOT NULL,
    message_id        BYTEA NOT NULL,
    tenant            TEXT COLLATE "C" NOT NULL,
    sender            TEXT COLLATE "C" NOT NULL,
    recipient         TEXT COLLATE "C" NOT NULL,
    kind              TEXT COLLATE "C" NOT NULL,
    priority          SMALLINT NOT NULL,
    body              TEXT COLLATE "C" NOT NULL,
    sent_at           BIGINT NOT NULL,
    expires_at        BIGINT,
    reply_to          BYTEA,
    correlation_id    TEXT COLLATE "C",
    conversation_id   TEXT COLLATE "C",
    requires_response BOOLEAN NOT NULL,
    recipients        BIGINT NOT NULL,
    mailbox           BIGINT,
    PRIMARY KEY (message_id)
);
CREATE INDEX messages_by_number ON messages (number);

-- A message in a mailbox. `open` until it is settled. `hand_out` counts takings and makes older leases stale.
CREATE TABLE deliveries (
    mailbox     BIGINT NOT NULL,
    number      BIGINT NOT NULL,
    message_id  BYTEA NOT NULL,
    sender      TEXT COLLATE "C" NOT NULL,
    priority    SMALLINT NOT NULL,
    open        BOOLEAN NOT NULL,
    state       SMALLINT NOT NULL,
    attempts    BIGINT NOT NULL DEFAULT 0,
    hand_out    BIGINT NOT NULL DEFAULT 0,
    taker       TEXT COLLATE "C",
    lease_until BIGINT,
    rests_until BIGINT,
    expires_at  BIGINT,
    settled_at  BIGINT,
    reason      TEXT COLLATE "C"
) PARTITION BY HASH (mailbox);
CREATE TABLE deliveries_0 PARTITION OF deliveries FOR VALUES WITH (MODULUS 8, REMAINDER 0);
CREATE TABLE deliveries_1 PARTITION OF deliveries FOR VALUES WITH (MODULUS 8, REMAINDER 1);
CREATE TABLE deliveries_2 PARTITION OF deliveries FOR VALUES WITH (MODULUS 8, REMAINDER 2);
CREATE TABLE deliveries_3 PARTITION OF deliveries FOR VALUES WITH (MODULUS 8, REMAINDER 3);
CREATE TABLE deliveries_4 PARTITION OF deliveries FOR VALUES WITH (MODULUS 8, REMAINDER 4);
CREATE TABLE deliveries_5 PARTITION OF deliveries FOR VALUES WITH (MODULUS 8, REMAINDER 5);
CREATE TABLE deliveries_6 PARTITION OF deliveries FOR VALUES WITH (MODULUS 8, REMAINDER 6);
CREATE TABLE deliveries_7 PARTITION OF deliveries FOR VALUES WITH (MODULUS 8, REMAINDER 7);
CREATE UNIQUE INDEX deliveries_in_order ON deliveries (mailbox, open, priority, number);
CREATE INDEX deliveries_leased ON deliveries (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX deliveries_resting ON deliveries (rests_until) WHERE rests_until IS NOT NULL;
CREATE INDEX deliveries_expiring ON deliveries (expires_at) WHERE open AND expires_at IS NOT NULL;

-- For many mailboxes: who they are (`members`, JSON) was decided when it was accepted. Nothing that its sender sent
-- later passes it while it is `underway`; then `wide_progress` has the place of the first member that it has not
-- reached, for itself, so that a step forward does not write the members anew.
CREATE TABLE wide_messages (
    message_id BYTEA NOT NULL PRIMARY KEY,
    number     BIGINT NOT NULL,
    tenant     TEXT COLLATE "C" NOT NULL,
    sender     TEXT COLLATE "C" NOT NULL,
    priority   SMALLINT NOT NULL,
    expires_at BIGINT,
    members    TEXT COLLATE "C" NOT NULL,
    underway   BOOLEAN NOT NULL
);
CREATE INDEX wide_messages_underway ON wide_messages (number) WHERE underway;
CREATE TABLE wide_progress (
    message_id BYTEA NOT NULL PRIMARY KEY,
    number     BIGINT NOT NULL,
    next       BIGINT NOT NULL
);
CREATE INDEX wide_progress_in_order ON wide_progress (number);

-- `key` is over tenant, sender and the sender's key; `fingerprint` over all that was said under it.
CREATE TABLE receipts (
    key         BYTEA NOT NULL PRIMARY KEY,
    fingerprint BYTEA NOT NULL,
    message_id  BYTEA NOT NULL,
    recipients  BIGINT NOT NULL,
    at          BIGINT NOT NULL
);
CREATE INDEX receipts_by_time ON receipts (at);

-- Deliveries that failed for good, in the order they did.
CREATE TABLE dead_letters (
    tenant     TEXT COLLATE "C" NOT NULL,
    mailbox    BIGINT NOT NULL,
    number     BIGINT NOT NULL,
    message_id BYTEA NOT NULL,
    died_at    BIGINT NOT NULL,
    PRIMARY KEY (tenant, mailbox, number)
);
CREATE INDEX dead_letters_by_time ON dead_letters (tenant, died_at, message_id);
CREATE INDEX dead_letters_by_message ON dead_letters (message_id);

-- `sort` and `name` are the mailbox that was asked. `state` as the domain ranks it, 0 is pending.
CREATE TABLE requests (
    message_id  BYTEA NOT NULL PRIMARY KEY,
    tenant      TEXT COLLATE "C" NOT NULL,
    sender      TEXT COLLATE "C" NOT NULL,
    sort        TEXT COLLATE "C" NOT NULL,
    name        TEXT COLLATE "C" NOT NULL,
    asked_at    BIGINT NOT NULL,
    deadline    BIGINT NOT NULL,
    waits       BOOLEAN NOT NULL,
    state       SMALLINT NOT NULL,
    progress    TEXT COLLATE "C",
    answered_by TEXT COLLATE "C",
    answer      TEXT COLLATE "C",
    reason      TEXT COLLATE "C",
    ended_at    BIGINT
);
CREATE INDEX requests_by_deadline ON requests (deadline) WHERE state = 0;
CREATE INDEX requests_waiting ON requests (tenant, sender) WHERE state = 0 AND waits;
CREATE INDEX requests_ended ON requests (ended_at) WHERE state > 0;

-- Of those that were asked: failures in a row, and until when nothing more is asked of it.
CREATE TABLE breakers (
    tenant     TEXT COLLATE "C" NOT NULL,
    sort       TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    failures   BIGINT NOT NULL,
    open_until BIGINT,
    PRIMARY KEY (tenant, sort, name)
);

CREATE TABLE topic_schemas (
    tenant  TEXT COLLATE "C" NOT NULL,
    topic   TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    schema  TEXT COLLATE "C" NOT NULL,
    set_at  BIGINT NOT NULL,
    set_by  TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, topic, version)
);

CREATE TABLE topic_subscribers (
    tenant   TEXT COLLATE "C" NOT NULL,
    topic    TEXT COLLATE "C" NOT NULL,
    agent_id TEXT COLLATE "C" NOT NULL,
    filter   TEXT COLLATE "C",
    since    BIGINT NOT NULL,
    PRIMARY KEY (tenant, topic, agent_id)
);
CREATE INDEX topic_subscribers_by_agent ON topic_subscribers (tenant, agent_id);

-- How far the events of a topic have been brought to its subscribers.
CREATE TABLE topic_feeds (
    tenant   TEXT COLLATE "C" NOT NULL,
    topic    TEXT COLLATE "C" NOT NULL,
    position BIGINT NOT NULL,
    since    BIGINT NOT NULL,
    PRIMARY KEY (tenant, topic)
);
