//! Which call of a language model's API a request may be, by its path, and whose API, by its host.

/// Calls that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `…/chat/completions` of OpenAI and what is compatible with it.
    ChatCompletions,
    /// `…/completions`.
    Completions,
    /// `…/embeddings`.
    Embeddings,
    /// `…/responses`.
    Responses,
    /// `…/messages` of Anthropic.
    Messages,
}

impl Endpoint {
    /// By the path's last parts. That alone proves nothing.
    pub fn of(path: &str) -> Option<Self> {
        let (before, last) = path.rsplit_once('/')?;
        Some(match last {
            "completions" if before.ends_with("/chat") => Self::ChatCompletions,
            "completions" => Self::Completions,
            "embeddings" => Self::Embeddings,
            "responses" => Self::Responses,
            "messages" => Self::Messages,
            _ => return None,
        })
    }

    /// Semantic conventions: `gen_ai.operation.name`.
    pub const fn operation(self) -> &'static str {
        match self {
            Self::ChatCompletions | Self::Responses | Self::Messages => "chat",
            Self::Completions => "text_completion",
            Self::Embeddings => "embeddings",
        }
    }
}

/// Hosts that are one provider's and nobody else's.
const HOSTS: [(&str, &str); 9] = [
    ("api.anthropic.com", "anthropic"),
    ("api.deepseek.com", "deepseek"),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral_ai"),
    ("api.openai.com", "openai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.x.ai", "x_ai"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("openai.azure.com", "azure.ai.openai"),
];

/// Semantic conventions: `gen_ai.provider.name`, where the host (with or without a port) says it.
pub(super) fn provider(host: &str) -> Option<&'static str> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is = |known: &str| match known {
        // One name for each customer.
        "openai.azure.com" => name.strip_suffix(known).is_some_and(|rest| rest.ends_with('.')),
        _ => name.eq_ignore_ascii_case(known),
    };
    HOSTS.into_iter().find(|(known, _)| is(known)).map(|(_, provider)| provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_known_by_the_end_of_their_path() {
        let check = |path, expected| assert_eq!(Endpoint::of(path), expected, "{path}");
        check("/v1/chat/completions", Some(Endpoint::ChatCompletions));
        check("/openai/deployments/x/completions", Some(Endpoint::Completions));
        check("/v1/messages", Some(Endpoint::Messages));
        check("/v1/messages/batches", None);
        check("/", None);
    }

    #[test]
    fn only_a_providers_own_host_says_who_it_is() {
        assert_eq!(provider("api.openai.com"), Some("openai"));
        assert_eq!(provider("api.anthropic.com:443"), Some("anthropic"));
        assert_eq!(provider("shop.openai.azure.com"), Some("azure.ai.openai"));
        for other in ["openai.azure.com", "x.api.openai.com", "gateway.test", "127.0.0.1:8000", "", "[::1]:80"] {
            assert_eq!(provider(other), None, "{other}");
        }
    }
}
