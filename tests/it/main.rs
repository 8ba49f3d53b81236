//! Tests of the whole program, in one binary.

#[cfg(test)]
mod architecture;
#[cfg(test)]
mod command_line;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod pipeline;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod store_contract;
#[cfg(test)]
mod world;
