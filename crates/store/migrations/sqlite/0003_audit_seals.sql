-- Seals by the run. A record is written once and never touched again; its place in the chain and the hash of its run
-- stand in one row for up to a thousand of them.

-- `hash` is that of the run's last record. The last seal of an epoch says up to which number it is sealed.
CREATE TABLE audit_seals (
    tenant         TEXT NOT NULL,
    writer         TEXT NOT NULL,
    epoch          BIGINT NOT NULL,
    first_number   BIGINT NOT NULL,
    last_number    BIGINT NOT NULL,
    first_position BIGINT NOT NULL,
    hash           TEXT NOT NULL,
    PRIMARY KEY (tenant, writer, epoch, first_number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX audit_seals_by_position ON audit_seals (tenant, first_position);

-- What is sealed stays so: each stretch of one epoch in the old chain is a run, under the hash of its last record.
INSERT INTO audit_seals (tenant, writer, epoch, first_number, last_number, first_position, hash)
SELECT run.tenant, run.writer, run.epoch, run.first_number, run.last_number, run.first_position, last.hash
FROM (SELECT tenant, writer, epoch, MIN(number) AS first_number, MAX(number) AS last_number,
          MIN(position) AS first_position
      FROM audit_records WHERE position IS NOT NULL
      GROUP BY tenant, writer, epoch, position - number, (position - 1) / 1000) AS run
JOIN audit_records AS last ON last.tenant = run.tenant AND last.writer = run.writer AND last.epoch = run.epoch
    AND last.number = run.last_number;

DROP INDEX audit_records_by_position;
DROP INDEX audit_records_unsealed;
ALTER TABLE audit_records DROP COLUMN position;
ALTER TABLE audit_records DROP COLUMN hash;
