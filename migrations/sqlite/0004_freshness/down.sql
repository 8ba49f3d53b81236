ALTER TABLE fetch_requests DROP COLUMN reopened_at;
DROP VIEW freshness;
DROP TABLE market_hours;
DROP TABLE watched_bars;
