//! The names of JSON that mean something here.

/// Names that mean something here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Key {
    CacheCreationInputTokens,
    CacheReadInputTokens,
    Code,
    CompletionTokens,
    Data,
    Error,
    Errors,
    Id,
    Input,
    InputTokens,
    Jsonrpc,
    MaxTokens,
    Message,
    Messages,
    Method,
    Model,
    OperationName,
    OutputTokens,
    Params,
    Prompt,
    PromptTokens,
    Query,
    Response,
    Result,
    Type,
    Usage,
    Variables,
    /// Any other.
    #[default]
    Other,
}

impl Key {
    /// By its bytes as they are written, without escapes.
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"cache_creation_input_tokens" => Self::CacheCreationInputTokens,
            b"cache_read_input_tokens" => Self::CacheReadInputTokens,
            b"code" => Self::Code,
            b"completion_tokens" => Self::CompletionTokens,
            b"data" => Self::Data,
            b"error" => Self::Error,
            b"errors" => Self::Errors,
            b"id" => Self::Id,
            b"input" => Self::Input,
            b"input_tokens" => Self::InputTokens,
            b"jsonrpc" => Self::Jsonrpc,
            b"max_tokens" => Self::MaxTokens,
            b"message" => Self::Message,
            b"messages" => Self::Messages,
            b"method" => Self::Method,
            b"model" => Self::Model,
            b"operationName" => Self::OperationName,
            b"output_tokens" => Self::OutputTokens,
            b"params" => Self::Params,
            b"prompt" => Self::Prompt,
            b"prompt_tokens" => Self::PromptTokens,
            b"query" => Self::Query,
            b"response" => Self::Response,
            b"result" => Self::Result,
            b"type" => Self::Type,
            b"usage" => Self::Usage,
            b"variables" => Self::Variables,
            _ => Self::Other,
        }
    }
}
