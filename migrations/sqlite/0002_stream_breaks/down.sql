DROP TABLE stream_breaks;
