//! The agent: kernel, files, network, command line.

pub mod capture;
pub mod cli;
pub mod commands;
pub mod config;
pub mod cost;
pub mod export;
pub mod intake;
pub mod inventory;
pub mod kernel;
pub mod live;
pub mod log;
pub mod memory;
pub mod otlp;
pub mod query;
pub mod receive;
pub mod reload;
pub mod run;
pub mod telemetry;
