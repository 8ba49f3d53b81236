//! Tables as diesel sees them, in both databases. `migrations/` says what each column means.

/// Every table, in the order in which they are copied.
pub(super) const TABLES: [&str; 12] = [
    "candles",
    "candle_revisions",
    "coverage",
    "feeds",
    "allowance",
    "settings",
    "stream_breaks",
    "lease",
    "fetch_requests",
    "heal_attempts",
    "watched_bars",
    "market_hours",
];

/// Those whose `id` the database gives.
pub(super) const NUMBERED_TABLES: [&str; 4] = ["feeds", "allowance", "stream_breaks", "fetch_requests"];

diesel::table! {
    candles (pair, timeframe, timestamp) {
        pair -> Text,
        timeframe -> Text,
        timestamp -> BigInt,
        open -> Double,
        high -> Double,
        low -> Double,
        close -> Double,
        volume -> BigInt,
        source -> Text,
        created_at -> BigInt,
        bid_open -> Double,
        bid_high -> Double,
        bid_low -> Double,
        bid_close -> Double,
        ask_open -> Double,
        ask_high -> Double,
        ask_low -> Double,
        ask_close -> Double,
        revision -> Integer,
        updated_at -> BigInt,
        seq -> BigInt,
        feed_id -> Nullable<BigInt>,
    }
}

diesel::table! {
    candle_revisions (pair, timeframe, timestamp, seq) {
        pair -> Text,
        timeframe -> Text,
        timestamp -> BigInt,
        seq -> BigInt,
        kind -> Text,
        open -> Double,
        high -> Double,
        low -> Double,
        close -> Double,
        volume -> BigInt,
        source -> Text,
        bid_open -> Double,
        bid_high -> Double,
        bid_low -> Double,
        bid_close -> Double,
        ask_open -> Double,
        ask_high -> Double,
        ask_low -> Double,
        ask_close -> Double,
        revision -> Integer,
        valid_from -> BigInt,
        valid_to -> BigInt,
    }
}

diesel::table! {
    coverage (pair, timeframe, from_ts) {
        pair -> Text,
        timeframe -> Text,
        from_ts -> BigInt,
        to_ts -> BigInt,
        state -> Text,
        reason -> Text,
        evidence -> Text,
        updated_at -> BigInt,
    }
}

diesel::table! {
    feeds (id) {
        id -> BigInt,
        pair -> Text,
        epic -> Text,
        environment -> Text,
        account_type -> Text,
        scale -> Text,
        calendar -> Text,
        watched_from -> BigInt,
        watched_to -> Nullable<BigInt>,
    }
}

diesel::table! {
    allowance (id) {
        id -> BigInt,
        environment -> Text,
        account -> Text,
        key_fingerprint -> Text,
        what -> Text,
        state -> Text,
        points -> BigInt,
        booked_at -> BigInt,
        settled_at -> Nullable<BigInt>,
        seen_remaining -> Nullable<BigInt>,
        seen_total -> Nullable<BigInt>,
        seen_expires_at -> Nullable<BigInt>,
        pair -> Nullable<Text>,
        timeframe -> Nullable<Text>,
        from_ts -> Nullable<BigInt>,
        to_ts -> Nullable<BigInt>,
        incident_from -> Nullable<BigInt>,
        incident_to -> Nullable<BigInt>,
        refusal -> Nullable<Text>,
    }
}

diesel::table! {
    lease (name) {
        name -> Text,
        holder -> Text,
        command -> Text,
        host -> Text,
        pid -> BigInt,
        epoch -> BigInt,
        acquired_at -> BigInt,
        renewed_at -> BigInt,
        expires_at -> BigInt,
    }
}

diesel::table! {
    fetch_requests (id) {
        id -> BigInt,
        pair -> Text,
        timeframe -> Text,
        from_ts -> BigInt,
        to_ts -> BigInt,
        state -> Text,
        note -> Text,
        asked_at -> BigInt,
        updated_at -> BigInt,
        reopened_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    heal_attempts (pair, timeframe, from_ts, to_ts) {
        pair -> Text,
        timeframe -> Text,
        from_ts -> BigInt,
        to_ts -> BigInt,
        times -> BigInt,
        next_at -> BigInt,
    }
}

diesel::table! {
    stream_breaks (id) {
        id -> BigInt,
        pair -> Nullable<Text>,
        from_ts -> BigInt,
        to_ts -> BigInt,
        cause -> Text,
        created_at -> BigInt,
    }
}

diesel::table! {
    watched_bars (pair, timeframe) {
        pair -> Text,
        timeframe -> Text,
        calendar -> Text,
        hours_to -> BigInt,
    }
}

diesel::table! {
    market_hours (calendar, from_ts) {
        calendar -> Text,
        from_ts -> BigInt,
        to_ts -> BigInt,
    }
}

// A view.
diesel::table! {
    freshness (pair, timeframe) {
        pair -> Text,
        timeframe -> Text,
        last_timestamp -> Nullable<BigInt>,
        expected_by -> BigInt,
    }
}

diesel::table! {
    settings (key) {
        key -> Text,
        value -> Text,
    }
}
