-- How fresh the newest bar is, as before; only what is asked for on the way is looked up once for each row, wherever it is used.
-- `expected_by` is when the next bar ought to be durable at the latest: a bucket's
-- length and 60 s after the start of the first bucket behind the newest bar that is owed. Owed is one that is
-- known to be missing or lost, and one in hours of the market that the ledger says nothing of; what is proved
-- to be quiet is owed no bar. 0 where there was never one; the end of the hours where none within them is owed.
-- A plan made while the tables are empty, and kept, must stay right: ORDER BY with LIMIT walks an index from its end, where MAX may
-- walk all of a pair, and OFFSET 0 has each run looked up instead of all of them joined.
CREATE OR REPLACE VIEW freshness AS
SELECT
    watched.pair AS pair,
    watched.timeframe AS timeframe,
    newest.timestamp AS last_timestamp,
    CASE
        WHEN newest.timestamp IS NULL THEN 0
        ELSE COALESCE((owed.due_ts / next.length_s + 1) * next.length_s + 60, watched.hours_to)
    END AS expected_by
FROM watched_bars AS watched
LEFT JOIN LATERAL (
    SELECT candle.timestamp FROM candles AS candle
    WHERE candle.pair = watched.pair AND candle.timeframe = watched.timeframe
    ORDER BY candle.timestamp DESC LIMIT 1
) AS newest ON TRUE
CROSS JOIN LATERAL (
    SELECT
        CAST(watched.timeframe AS BIGINT) * 60 AS length_s,
        newest.timestamp + CAST(watched.timeframe AS BIGINT) * 60 AS bucket_ts
    OFFSET 0
) AS next
-- The run that holds the next bucket, or ends at it, or the last before it: runs do not overlap. Looked for in the last week first, for
-- what lies within the bounds of a search is taken down from a page of the index before any of it is handed out.
CROSS JOIN LATERAL (
    SELECT COALESCE(
        (
            SELECT run.from_ts FROM coverage AS run
            WHERE run.pair = watched.pair AND run.timeframe = '5' AND run.from_ts <= next.bucket_ts
                AND run.from_ts >= GREATEST(next.bucket_ts, 0) - 604800
            ORDER BY run.from_ts DESC LIMIT 1
        ),
        (
            SELECT run.from_ts FROM coverage AS run
            WHERE run.pair = watched.pair AND run.timeframe = '5' AND run.from_ts <= next.bucket_ts
            ORDER BY run.from_ts DESC LIMIT 1
        ),
        0
    ) AS from_ts
    OFFSET 0
) AS held
CROSS JOIN LATERAL (
    SELECT MIN(due.due_ts) AS due_ts FROM (
        -- Known to be without its bar.
        SELECT GREATEST(run.from_ts, next.bucket_ts) AS due_ts
        FROM coverage AS run
        WHERE run.pair = watched.pair AND run.timeframe = '5' AND run.from_ts >= held.from_ts
            AND run.to_ts > next.bucket_ts AND run.state IN ('missing', 'lost')
        UNION ALL
        -- The market trades at once, or opens, in a bucket that the ledger does not reach.
        SELECT opening.due_ts
        FROM (
            SELECT GREATEST(hours.from_ts, next.bucket_ts) AS due_ts
            FROM market_hours AS hours
            WHERE hours.calendar = watched.calendar AND hours.to_ts > next.bucket_ts
        ) AS opening
        WHERE NOT EXISTS (
            SELECT 1 FROM coverage AS run
            WHERE run.pair = watched.pair AND run.timeframe = '5' AND run.from_ts >= held.from_ts
                AND run.from_ts <= opening.due_ts AND run.to_ts > opening.due_ts
            OFFSET 0
        )
        UNION ALL
        -- The ledger ends while the market trades.
        SELECT run.to_ts AS due_ts
        FROM coverage AS run
        JOIN market_hours AS hours
            ON hours.calendar = watched.calendar AND hours.from_ts <= run.to_ts AND hours.to_ts > run.to_ts
        WHERE run.pair = watched.pair AND run.timeframe = '5' AND run.from_ts >= held.from_ts
            AND run.to_ts >= next.bucket_ts
            AND NOT EXISTS (
                SELECT 1 FROM coverage AS beyond
                WHERE beyond.pair = watched.pair AND beyond.timeframe = '5' AND beyond.from_ts = run.to_ts
                OFFSET 0
            )
    ) AS due
) AS owed;
