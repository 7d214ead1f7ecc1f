//! Reason codes: of MQTT 5 (section 2.4), and the return codes that older `CONNACK`s have.

/// The first code that is an error.
pub(super) const ERROR: u8 = 0x80;

/// The `error.type` of a reason code, and whether it is the server's trouble.
pub(super) const fn error(reason: u8) -> (&'static str, bool) {
    match reason {
        0x80 => ("unspecified_error", true),
        0x81 => ("malformed_packet", false),
        0x82 => ("protocol_error", false),
        0x83 => ("implementation_specific_error", true),
        0x84 => ("unsupported_protocol_version", false),
        0x85 => ("client_identifier_not_valid", false),
        0x86 => ("bad_user_name_or_password", false),
        0x87 => ("not_authorized", false),
        0x88 => ("server_unavailable", true),
        0x89 => ("server_busy", true),
        0x8a => ("banned", false),
        0x8b => ("server_shutting_down", true),
        0x8c => ("bad_authentication_method", false),
        0x8d => ("keep_alive_timeout", false),
        0x8e => ("session_taken_over", false),
        0x8f => ("topic_filter_invalid", false),
        0x90 => ("topic_name_invalid", false),
        0x91 => ("packet_identifier_in_use", false),
        0x92 => ("packet_identifier_not_found", false),
        0x93 => ("receive_maximum_exceeded", false),
        0x94 => ("topic_alias_invalid", false),
        0x95 => ("packet_too_large", false),
        0x96 => ("message_rate_too_high", false),
        0x97 => ("quota_exceeded", true),
        0x98 => ("administrative_action", false),
        0x99 => ("payload_format_invalid", false),
        0x9a => ("retain_not_supported", false),
        0x9b => ("qos_not_supported", false),
        0x9c => ("use_another_server", false),
        0x9d => ("server_moved", false),
        0x9e => ("shared_subscriptions_not_supported", false),
        0x9f => ("connection_rate_exceeded", false),
        0xa0 => ("maximum_connect_time", false),
        0xa1 => ("subscription_identifiers_not_supported", false),
        0xa2 => ("wildcard_subscriptions_not_supported", false),
        _ => ("_OTHER", false),
    }
}

/// The reason code that says what an older `CONNACK`'s return code says (MQTT 3.1.1, table 3.1).
pub(super) const fn of_return_code(code: u8) -> u8 {
    match code {
        1 => 0x84,
        2 => 0x85,
        3 => 0x88,
        4 => 0x86,
        5 => 0x87,
        other => other,
    }
}
