-- The data contract. Columns are only ever added, never renamed; migrations/sqlite has the same tables
-- and columns.

CREATE TABLE candles (
    pair       TEXT COLLATE "C" NOT NULL, -- 'EUR_USD'
    timeframe  TEXT COLLATE "C" NOT NULL, -- minutes: '5', '15'
    timestamp  BIGINT  NOT NULL, -- bucket start, epoch seconds, UTC
    open       DOUBLE PRECISION  NOT NULL, -- mid
    high       DOUBLE PRECISION  NOT NULL,
    low        DOUBLE PRECISION  NOT NULL,
    close      DOUBLE PRECISION  NOT NULL,
    volume     BIGINT  NOT NULL, -- ticks
    source     TEXT    NOT NULL, -- 'websocket', 'ig_rest', 'derived', 'import'
    created_at BIGINT  NOT NULL, -- epoch seconds, UTC
    bid_open   DOUBLE PRECISION  NOT NULL,
    bid_high   DOUBLE PRECISION  NOT NULL,
    bid_low    DOUBLE PRECISION  NOT NULL,
    bid_close  DOUBLE PRECISION  NOT NULL,
    ask_open   DOUBLE PRECISION  NOT NULL,
    ask_high   DOUBLE PRECISION  NOT NULL,
    ask_low    DOUBLE PRECISION  NOT NULL,
    ask_close  DOUBLE PRECISION  NOT NULL,
    revision   INTEGER NOT NULL, -- 0: as first stored
    updated_at BIGINT  NOT NULL, -- epoch seconds, UTC
    seq        BIGINT  NOT NULL, -- grows in commit order, renewed on revision
    feed_id    BIGINT,           -- feeds.id; none for imports
    PRIMARY KEY (pair, timeframe, timestamp)
);
CREATE UNIQUE INDEX candles_seq ON candles (seq);

-- What a bar was before a correction, and what was offered for it in vain.
CREATE TABLE candle_revisions (
    pair       TEXT COLLATE "C" NOT NULL,
    timeframe  TEXT COLLATE "C" NOT NULL,
    timestamp  BIGINT  NOT NULL,
    seq        BIGINT  NOT NULL, -- as it was in candles; of its own where refused
    kind       TEXT    NOT NULL, -- 'superseded', 'refused'
    open       DOUBLE PRECISION  NOT NULL,
    high       DOUBLE PRECISION  NOT NULL,
    low        DOUBLE PRECISION  NOT NULL,
    close      DOUBLE PRECISION  NOT NULL,
    volume     BIGINT  NOT NULL,
    source     TEXT    NOT NULL,
    bid_open   DOUBLE PRECISION  NOT NULL,
    bid_high   DOUBLE PRECISION  NOT NULL,
    bid_low    DOUBLE PRECISION  NOT NULL,
    bid_close  DOUBLE PRECISION  NOT NULL,
    ask_open   DOUBLE PRECISION  NOT NULL,
    ask_high   DOUBLE PRECISION  NOT NULL,
    ask_low    DOUBLE PRECISION  NOT NULL,
    ask_close  DOUBLE PRECISION  NOT NULL,
    revision   INTEGER NOT NULL, -- of the bar while it had, or refused, this value
    valid_from BIGINT  NOT NULL, -- epoch seconds, UTC
    valid_to   BIGINT  NOT NULL, -- half-open: never valid where refused
    PRIMARY KEY (pair, timeframe, timestamp, seq)
);
CREATE UNIQUE INDEX candle_revisions_seq ON candle_revisions (seq);

-- Runs of buckets in one state: disjoint per pair and timeframe.
CREATE TABLE coverage (
    pair       TEXT COLLATE "C" NOT NULL,
    timeframe  TEXT COLLATE "C" NOT NULL,
    from_ts    BIGINT  NOT NULL, -- half-open, epoch seconds, UTC
    to_ts      BIGINT  NOT NULL,
    state      TEXT    NOT NULL, -- 'stored', 'quiet', 'closed', 'missing', 'lost'
    reason     TEXT    NOT NULL,
    evidence   TEXT    NOT NULL,
    updated_at BIGINT  NOT NULL,
    PRIMARY KEY (pair, timeframe, from_ts)
);
CREATE INDEX coverage_to_ts ON coverage (to_ts);

-- What was watched, from when to when: unwatched time is no gap.
CREATE TABLE feeds (
    id           BIGINT  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pair         TEXT COLLATE "C" NOT NULL,
    epic         TEXT    NOT NULL,
    environment  TEXT    NOT NULL, -- 'demo', 'live', 'custom'
    account_type TEXT    NOT NULL,
    scale        TEXT    NOT NULL,
    calendar     TEXT    NOT NULL,
    watched_from BIGINT  NOT NULL,
    watched_to   BIGINT            -- none while watched
);

-- Every spend of data points, and IG's numbers as the answer to it told them.
CREATE TABLE allowance (
    id              BIGINT  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    environment     TEXT    NOT NULL,
    account         TEXT    NOT NULL,
    key_fingerprint TEXT    NOT NULL,
    what            TEXT    NOT NULL, -- for people
    state           TEXT    NOT NULL, -- 'booked', 'settled', 'unknown'
    points          BIGINT  NOT NULL,
    booked_at       BIGINT  NOT NULL,
    settled_at      BIGINT,
    seen_remaining  BIGINT,
    seen_total      BIGINT,
    seen_expires_at BIGINT
);
CREATE INDEX allowance_account ON allowance (environment, account, key_fingerprint, booked_at);

CREATE TABLE settings (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
