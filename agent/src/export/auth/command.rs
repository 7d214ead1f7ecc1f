//! A token from a command's output: what secrets managers and cloud providers have tools for.

use std::{process::Stdio, time::Duration};

use tokio::io::AsyncReadExt;

use super::{
    super::secrets,
    cached::{Token, TokenSource},
};
use crate::config::Bearer;

/// Longest output that is read.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

pub(super) struct Command {
    program: String,
    arguments: Vec<String>,
    fresh: Duration,
    timeout: Duration,
}

impl Command {
    pub(super) fn new(bearer: &Bearer, timeout: Duration) -> Self {
        let (program, arguments) = bearer
            .command
            .split_first()
            .map_or((String::new(), Vec::new()), |(first, rest)| (first.clone(), rest.to_vec()));
        Self { program, arguments, fresh: bearer.expires_after.0, timeout }
    }

    async fn output(&self) -> Result<String, String> {
        let mut child = tokio::process::Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // It could say more than it should.
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|cause| format!("cannot be started: {cause}"))?;
        let mut bytes = Vec::new();
        if let Some(output) = child.stdout.take() {
            let read = output.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).await;
            read.map_err(|cause| format!("cannot be read from: {cause}"))?;
        }
        let status = child.wait().await.map_err(|cause| cause.to_string())?;
        if !status.success() {
            return Err(format!("failed ({status}); run it by hand as the agent's user"));
        }
        let text = String::from_utf8(bytes).map_err(|_| "has written something that is no text".to_owned())?;
        Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    }
}

impl TokenSource for Command {
    async fn fetch(&self) -> Result<Token, String> {
        let output = tokio::time::timeout(self.timeout, self.output()).await;
        let token = output.unwrap_or_else(|_| Err(format!("has not ended within {:?}", self.timeout)));
        let value = token.and_then(|token| secrets::bearer(&token));
        let value = value.map_err(|cause| format!("the command {} of auth.bearer: {cause}", self.program))?;
        Ok(Token { value, fresh: self.fresh, good: None })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::config::Interval;

    async fn fetch(command: &[&str]) -> Result<Token, String> {
        let command = command.iter().map(|part| (*part).to_owned()).collect();
        let bearer = Bearer { file: None, command, expires_after: Interval::secs(7) };
        Command::new(&bearer, Duration::from_secs(30)).fetch().await
    }

    #[tokio::test]
    async fn the_first_line_is_the_token() {
        let token = fetch(&["printf", "%s\\n", "abc", "more"]).await.unwrap();
        assert_eq!((token.value, token.fresh), (HeaderValue::from_static("Bearer abc"), Duration::from_secs(7)));
    }

    #[tokio::test]
    async fn failures_name_the_command_and_no_output() {
        for (command, part) in [
            (&["/no/such/program"][..], "cannot be started"),
            (&["sh", "-c", "echo hunter2; exit 3"], "exit status: 3"),
            (&["sh", "-c", "echo hunter2 hunter3"], "token"),
            (&["true"], "empty"),
        ] {
            let error = fetch(command).await.err().unwrap();
            assert!(error.contains(part) && error.contains(command[0]) && !error.contains("hunter2"), "{error}");
        }
        let bearer =
            Bearer { file: None, command: vec!["sleep".into(), "600".into()], expires_after: Interval::secs(7) };
        let error = Command::new(&bearer, Duration::from_millis(50)).fetch().await.err().unwrap();
        assert!(error.contains("has not ended"), "{error}");
    }
}
