//! `spantap config check|show|schema`: delegates to the configuration module.

use std::process::ExitCode;

use super::{Done, Output};
use crate::{
    cli::ConfigCommand,
    config::{self, Loaded},
};

pub(super) fn config(command: ConfigCommand, output: &mut Output) -> Done {
    match command {
        ConfigCommand::Check { file } => {
            let loaded = config::check(&file)?;
            for warning in &loaded.warnings {
                output.line(&format!("warning: {warning}"))?;
            }
            output.line(&format!(
                "{} is a valid configuration; files that it names are read at the start",
                file.display()
            ))?;
        }
        ConfigCommand::Show(args) => {
            if args.config.is_none() && std::env::var_os("SPANTAP_CONFIG").is_none() {
                output.line("# no file is given (--config FILE): defaults, environment and flags")?;
            }
            let loaded = Loaded::load(&args, std::env::vars())?;
            loaded.warnings.iter().try_for_each(|warning| output.line(&format!("# warning: {warning}")))?;
            output.text(&config::show(&loaded))?;
        }
        ConfigCommand::Schema => output.line(&serde_json::to_string_pretty(config::schema())?)?,
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}
