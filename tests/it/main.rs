//! Tests of the whole program, in one binary.

#[cfg(test)]
mod api;
#[cfg(test)]
mod api_bars;
#[cfg(test)]
mod architecture;
#[cfg(test)]
mod away;
#[cfg(test)]
mod away_server;
#[cfg(test)]
mod backfill;
#[cfg(test)]
mod calendar;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod clock;
#[cfg(test)]
mod command_line;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod document;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod freshness;
#[cfg(test)]
mod front;
#[cfg(test)]
mod healing;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod last_run;
#[cfg(test)]
mod lease;
#[cfg(test)]
mod links;
#[cfg(test)]
mod load;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod moving;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod pipeline;
#[cfg(test)]
mod postgres;
#[cfg(test)]
#[expect(dead_code, reason = "benches have it too, which use the rest")]
mod process;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod push;
#[cfg(test)]
mod readers;
#[cfg(test)]
mod ready;
#[cfg(test)]
mod recorded_bars;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod rooms;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod standby;
#[cfg(test)]
mod starved;
#[cfg(test)]
mod store_contract;
#[cfg(test)]
mod stream;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod terminal;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod transcript;
#[cfg(test)]
mod world;
