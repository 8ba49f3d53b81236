DROP VIEW freshness;
CREATE VIEW freshness AS
SELECT
    owed.pair AS pair,
    owed.timeframe AS timeframe,
    owed.last_timestamp AS last_timestamp,
    CASE
        WHEN owed.last_timestamp IS NULL THEN 0
        ELSE COALESCE((owed.due_ts / owed.length_s + 1) * owed.length_s + 60, owed.hours_to)
    END AS expected_by
FROM (
    SELECT
        newest.pair,
        newest.timeframe,
        newest.length_s,
        newest.hours_to,
        newest.last_timestamp,
        (
            SELECT MIN(due.due_ts) FROM (
                -- Known to be without its bar.
                SELECT CASE WHEN run.from_ts > newest.next_ts THEN run.from_ts ELSE newest.next_ts END AS due_ts
                FROM coverage AS run
                WHERE run.pair = newest.pair AND run.timeframe = '5' AND run.from_ts >= newest.run_ts
                    AND run.to_ts > newest.next_ts AND run.state IN ('missing', 'lost')
                UNION ALL
                -- The market trades at once, or opens, in a bucket that the ledger does not reach.
                SELECT opening.due_ts
                FROM (
                    SELECT CASE WHEN hours.from_ts > newest.next_ts THEN hours.from_ts ELSE newest.next_ts END AS due_ts
                    FROM market_hours AS hours
                    WHERE hours.calendar = newest.calendar AND hours.to_ts > newest.next_ts
                ) AS opening
                WHERE NOT EXISTS (
                    SELECT 1 FROM coverage AS run
                    WHERE run.pair = newest.pair AND run.timeframe = '5' AND run.from_ts >= newest.run_ts
                        AND run.from_ts <= opening.due_ts AND run.to_ts > opening.due_ts
                )
                UNION ALL
                -- The ledger ends while the market trades.
                SELECT run.to_ts AS due_ts
                FROM coverage AS run
                JOIN market_hours AS hours
                    ON hours.calendar = newest.calendar AND hours.from_ts <= run.to_ts AND hours.to_ts > run.to_ts
                WHERE run.pair = newest.pair AND run.timeframe = '5' AND run.from_ts >= newest.run_ts
                    AND run.to_ts >= newest.next_ts
                    AND NOT EXISTS (
                        SELECT 1 FROM coverage AS beyond
                        WHERE beyond.pair = newest.pair AND beyond.timeframe = '5' AND beyond.from_ts = run.to_ts
                    )
            ) AS due
        ) AS due_ts
    FROM (
        SELECT
            bar.pair,
            bar.timeframe,
            bar.calendar,
            bar.hours_to,
            bar.length_s,
            bar.last_timestamp,
            bar.last_timestamp + bar.length_s AS next_ts,
            -- The run that holds the next bucket, or ends at it, or the last before it: runs do not overlap.
            COALESCE((
                SELECT MAX(run.from_ts) FROM coverage AS run
                WHERE run.pair = bar.pair AND run.timeframe = '5'
                    AND run.from_ts <= bar.last_timestamp + bar.length_s
            ), 0) AS run_ts
        FROM (
            SELECT
                watched.pair,
                watched.timeframe,
                watched.calendar,
                watched.hours_to,
                CAST(watched.timeframe AS BIGINT) * 60 AS length_s,
                (
                    SELECT MAX(candle.timestamp) FROM candles AS candle
                    WHERE candle.pair = watched.pair AND candle.timeframe = watched.timeframe
                ) AS last_timestamp
            FROM watched_bars AS watched
        ) AS bar
    ) AS newest
) AS owed;
