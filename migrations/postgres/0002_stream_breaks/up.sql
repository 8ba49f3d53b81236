-- Times in which rows of the stream may have been lost, newest ten thousand.
CREATE TABLE stream_breaks (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pair       TEXT,             -- none: every pair
    from_ts    BIGINT  NOT NULL, -- last row before, epoch seconds, UTC, event time
    to_ts      BIGINT  NOT NULL, -- first row after, or the end of the process
    cause      TEXT    NOT NULL, -- for people
    created_at BIGINT  NOT NULL  -- epoch seconds, UTC
);
