DROP TABLE settings;
DROP TABLE allowance;
DROP TABLE feeds;
DROP TABLE coverage;
DROP TABLE candle_revisions;
DROP TABLE candles;
