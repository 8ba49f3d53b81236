-- The ledger by pair again.
CREATE TABLE coverage_before AS SELECT * FROM coverage;
DROP TABLE coverage;
CREATE TABLE coverage (
    pair       TEXT    NOT NULL,
    timeframe  TEXT    NOT NULL,
    from_ts    BIGINT  NOT NULL, -- half-open, epoch seconds, UTC
    to_ts      BIGINT  NOT NULL,
    state      TEXT    NOT NULL, -- 'stored', 'quiet', 'closed', 'missing', 'lost'
    reason     TEXT    NOT NULL,
    evidence   TEXT    NOT NULL,
    updated_at BIGINT  NOT NULL,
    PRIMARY KEY (pair, timeframe, from_ts)
) WITHOUT ROWID;
INSERT INTO coverage SELECT * FROM coverage_before;
DROP TABLE coverage_before;
CREATE INDEX coverage_to_ts ON coverage (to_ts);
CREATE INDEX coverage_state ON coverage (state, timeframe, pair, from_ts);
