-- Mail: mailboxes, messages, what of them is where, receipts, requests; and what topics need.
--
-- A send must touch few pages, for each page it touches is written twice: so what grows knows a mailbox by number,
-- messages and deliveries are appended, and a delivery stands in one index until a clock has to look for it.

ALTER TABLE agents ADD COLUMN webhook_url TEXT;
ALTER TABLE agents ADD COLUMN old_keys TEXT NOT NULL DEFAULT '[]';

-- Made when mail first comes, and kept: `closed` once its agent has left, so that nothing can be sent to it any more.
-- `waiting` counts deliveries that are not settled. `turn` is where its round of priorities stands. What has a number
-- up to `since` was sent to an agent that left, before another took its id: it is not for that one to read.
CREATE TABLE mailboxes (
    mailbox INTEGER NOT NULL PRIMARY KEY,
    tenant  TEXT NOT NULL,
    sort    TEXT NOT NULL,
    name    TEXT NOT NULL,
    closed  BOOLEAN NOT NULL DEFAULT FALSE,
    waiting BIGINT NOT NULL DEFAULT 0,
    turn    BIGINT NOT NULL DEFAULT 0,
    since   BIGINT NOT NULL DEFAULT 0,
    UNIQUE (tenant, sort, name)
);

-- One row: every message takes the next.
CREATE TABLE message_numbers (
    only_row BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (only_row),
    last     BIGINT NOT NULL
);
INSERT INTO message_numbers (last) VALUES (0);

-- `mailbox`: the one it is for; null when it is for many, then `wide_messages` has them.
CREATE TABLE messages (
    number            INTEGER NOT NULL PRIMARY KEY,
    message_id        BLOB NOT NULL UNIQUE,
    tenant            TEXT NOT NULL,
    sender            TEXT NOT NULL,
    recipient         TEXT NOT NULL,
    kind              TEXT NOT NULL,
    priority          SMALLINT NOT NULL,
    body              TEXT NOT NULL,
    sent_at           BIGINT NOT NULL,
    expires_at        BIGINT,
    reply_to          BLOB,
    correlation_id    TEXT,
    conversation_id   TEXT,
    requires_response BOOLEAN NOT NULL,
    recipients        BIGINT NOT NULL,
    mailbox           BIGINT
);

-- A message in a mailbox. `open` until it is settled. `hand_out` counts takings and makes older leases stale.
CREATE TABLE deliveries (
    mailbox     BIGINT NOT NULL,
    number      BIGINT NOT NULL,
    message_id  BLOB NOT NULL,
    sender      TEXT NOT NULL,
    priority    SMALLINT NOT NULL,
    open        BOOLEAN NOT NULL,
    state       SMALLINT NOT NULL,
    attempts    BIGINT NOT NULL DEFAULT 0,
    hand_out    BIGINT NOT NULL DEFAULT 0,
    taker       TEXT,
    lease_until BIGINT,
    rests_until BIGINT,
    expires_at  BIGINT,
    settled_at  BIGINT,
    reason      TEXT
);
CREATE UNIQUE INDEX deliveries_in_order ON deliveries (mailbox, open, priority, number);
CREATE INDEX deliveries_leased ON deliveries (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX deliveries_resting ON deliveries (rests_until) WHERE rests_until IS NOT NULL;
CREATE INDEX deliveries_expiring ON deliveries (expires_at) WHERE open AND expires_at IS NOT NULL;

-- For many mailboxes: who they are (`members`, JSON) was decided when it was accepted. Nothing that its sender sent
-- later passes it while it is `underway`; then `wide_progress` has the place of the first member that it has not
-- reached, for itself, so that a step forward does not write the members anew.
CREATE TABLE wide_messages (
    message_id BLOB NOT NULL PRIMARY KEY,
    number     BIGINT NOT NULL,
    tenant     TEXT NOT NULL,
    sender     TEXT NOT NULL,
    priority   SMALLINT NOT NULL,
    expires_at BIGINT,
    members    TEXT NOT NULL,
    underway   BOOLEAN NOT NULL
) WITHOUT ROWID;
CREATE INDEX wide_messages_underway ON wide_messages (number) WHERE underway;
CREATE TABLE wide_progress (
    message_id BLOB NOT NULL PRIMARY KEY,
    number     BIGINT NOT NULL,
    next       BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX wide_progress_in_order ON wide_progress (number);

-- `key` is over tenant, sender and the sender's key; `fingerprint` over all that was said under it.
CREATE TABLE receipts (
    key         BLOB NOT NULL PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    message_id  BLOB NOT NULL,
    recipients  BIGINT NOT NULL,
    at          BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX receipts_by_time ON receipts (at);

-- Deliveries that failed for good, in the order they did.
CREATE TABLE dead_letters (
    tenant     TEXT NOT NULL,
    mailbox    BIGINT NOT NULL,
    number     BIGINT NOT NULL,
    message_id BLOB NOT NULL,
    died_at    BIGINT NOT NULL,
    PRIMARY KEY (tenant, mailbox, number)
) WITHOUT ROWID;
CREATE INDEX dead_letters_by_time ON dead_letters (tenant, died_at, message_id);
CREATE INDEX dead_letters_by_message ON dead_letters (message_id);

-- `sort` and `name` are the mailbox that was asked. `state` as the domain ranks it, 0 is pending.
CREATE TABLE requests (
    message_id  BLOB NOT NULL PRIMARY KEY,
    tenant      TEXT NOT NULL,
    sender      TEXT NOT NULL,
    sort        TEXT NOT NULL,
    name        TEXT NOT NULL,
    asked_at    BIGINT NOT NULL,
    deadline    BIGINT NOT NULL,
    waits       BOOLEAN NOT NULL,
    state       SMALLINT NOT NULL,
    progress    TEXT,
    answered_by TEXT,
    answer      TEXT,
    reason      TEXT,
    ended_at    BIGINT
) WITHOUT ROWID;
CREATE INDEX requests_by_deadline ON requests (deadline) WHERE state = 0;
CREATE INDEX requests_waiting ON requests (tenant, sender) WHERE state = 0 AND waits;
CREATE INDEX requests_ended ON requests (ended_at) WHERE state > 0;

-- Of those that were asked: failures in a row, and until when nothing more is asked of it.
CREATE TABLE breakers (
    tenant     TEXT NOT NULL,
    sort       TEXT NOT NULL,
    name       TEXT NOT NULL,
    failures   BIGINT NOT NULL,
    open_until BIGINT,
    PRIMARY KEY (tenant, sort, name)
) WITHOUT ROWID;

CREATE TABLE topic_schemas (
    tenant  TEXT NOT NULL,
    topic   TEXT NOT NULL,
    version BIGINT NOT NULL,
    schema  TEXT NOT NULL,
    set_at  BIGINT NOT NULL,
    set_by  TEXT NOT NULL,
    PRIMARY KEY (tenant, topic, version)
) WITHOUT ROWID;

CREATE TABLE topic_subscribers (
    tenant   TEXT NOT NULL,
    topic    TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    filter   TEXT,
    since    BIGINT NOT NULL,
    PRIMARY KEY (tenant, topic, agent_id)
) WITHOUT ROWID;
CREATE INDEX topic_subscribers_by_agent ON topic_subscribers (tenant, agent_id);

-- How far the events of a topic have been brought to its subscribers.
CREATE TABLE topic_feeds (
    tenant   TEXT NOT NULL,
    topic    TEXT NOT NULL,
    position BIGINT NOT NULL,
    since    BIGINT NOT NULL,
    PRIMARY KEY (tenant, topic)
) WITHOUT ROWID;
