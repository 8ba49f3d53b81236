DROP VIEW freshness;
DROP TABLE market_hours;
DROP TABLE watched_bars;
