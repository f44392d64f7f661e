-- Sequences and times rise together: the one writer sees to it.
CREATE TABLE IF NOT EXISTS events (
  sequence     INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant       TEXT    NOT NULL,
  topic        TEXT    NOT NULL,
  published_at INTEGER NOT NULL,
  size_bytes   INTEGER NOT NULL,
  envelope     BLOB    NOT NULL
);
CREATE INDEX IF NOT EXISTS events_by_topic ON events (tenant, topic, sequence);
CREATE INDEX IF NOT EXISTS events_by_time ON events (tenant, topic, published_at);

-- What was published with a key in the last two minutes. Apart from the events, so that retention by bytes cannot
-- make a repeat look new.
CREATE TABLE IF NOT EXISTS keys (
  id           BLOB    PRIMARY KEY,
  sequence     INTEGER NOT NULL,
  published_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS keys_by_time ON keys (published_at);

-- One row: the sum of events.size_bytes, so that opening a large log need not read it.
CREATE TABLE IF NOT EXISTS total (bytes INTEGER NOT NULL);
INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM total);
