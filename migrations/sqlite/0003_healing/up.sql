-- Who collects into this database: one process logs in and spends at a time.
CREATE TABLE lease (
    name        TEXT    NOT NULL PRIMARY KEY, -- 'collector', 'standby/HOLDER'
    holder      TEXT    NOT NULL, -- new for each process
    command     TEXT    NOT NULL, -- 'run', 'backfill'
    host        TEXT    NOT NULL,
    pid         BIGINT  NOT NULL,
    epoch       BIGINT  NOT NULL, -- grows with each holder
    acquired_at BIGINT  NOT NULL, -- epoch seconds, UTC
    renewed_at  BIGINT  NOT NULL,
    expires_at  BIGINT  NOT NULL  -- renewed_at where it was given back
) WITHOUT ROWID;

-- Stretches that somebody wants fetched, handed to whoever holds the lease.
CREATE TABLE fetch_requests (
    id         INTEGER NOT NULL PRIMARY KEY,
    pair       TEXT    NOT NULL,
    timeframe  TEXT    NOT NULL, -- '5', '15'
    from_ts    BIGINT  NOT NULL, -- half-open, epoch seconds, UTC
    to_ts      BIGINT  NOT NULL,
    state      TEXT    NOT NULL, -- 'asked', 'taken', 'done', 'refused'
    note       TEXT    NOT NULL, -- for people
    asked_at   BIGINT  NOT NULL,
    updated_at BIGINT  NOT NULL
);
CREATE INDEX fetch_requests_state ON fetch_requests (state);

-- Stretches that REST was asked about in vain, and when they may be asked about again.
CREATE TABLE heal_attempts (
    pair      TEXT    NOT NULL,
    timeframe TEXT    NOT NULL,
    from_ts   BIGINT  NOT NULL,
    to_ts     BIGINT  NOT NULL,
    times     BIGINT  NOT NULL,
    next_at   BIGINT  NOT NULL, -- epoch seconds, UTC, wall time
    PRIMARY KEY (pair, timeframe, from_ts, to_ts)
) WITHOUT ROWID;

-- What a spend was for, beside the words of `what`: none for spends from before.
ALTER TABLE allowance ADD COLUMN pair TEXT;
ALTER TABLE allowance ADD COLUMN timeframe TEXT;
ALTER TABLE allowance ADD COLUMN from_ts BIGINT;
ALTER TABLE allowance ADD COLUMN to_ts BIGINT;
-- The incident that it was spent on, as far as it was unhealed then: none for backfill.
ALTER TABLE allowance ADD COLUMN incident_from BIGINT;
ALTER TABLE allowance ADD COLUMN incident_to BIGINT;
-- The broker's code where it refused.
ALTER TABLE allowance ADD COLUMN refusal TEXT;

CREATE INDEX coverage_state ON coverage (state, timeframe, pair, from_ts);
