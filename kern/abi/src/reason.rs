//! Why a packet was dropped: one numbered list for kernel, engine, counters, flow records, CLI and documentation.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $name:literal, hubble $hubble:literal;)+) => {
        /// Why a packet or a request was dropped. Codes are stable and never reused: 1–63 are given by the kernel
        /// programs, 64–254 by the engine.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant = $code,)+
        }

        impl DropReason {
            /// Every reason, in the order of the codes.
            pub const ALL: &[DropReason] = &[$(DropReason::$variant),+];

            /// The reason with this code, if there is one.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<DropReason> {
                match code {
                    $($code => Some(DropReason::$variant),)+
                    _ => None,
                }
            }

            /// Stable name in `snake_case`, as metrics and JSON show it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The number that Hubble uses for the nearest reason of its own (`DropReason` in its flow.proto),
            /// 0 where it has none.
            #[must_use]
            pub const fn hubble_code(self) -> u32 {
                match self { $(DropReason::$variant => $hubble,)+ }
            }
        }
    };
}

reasons! {
    /// No rule allows it and the direction is in default deny.
    PolicyDenied = 1, "policy_denied", hubble 133;
    /// A deny rule covers it.
    PolicyDenyRule = 2, "policy_deny_rule", hubble 181;
    /// The endpoint sent from an address that is not its own.
    InvalidSourceIp = 3, "invalid_source_ip", hubble 132;
    /// Neither IPv4, IPv6 nor ARP, or more than two VLAN tags.
    UnsupportedL3Protocol = 4, "unsupported_l3_protocol", hubble 139;
    /// A header is cut short or contradicts itself.
    InvalidHeader = 5, "invalid_header", hubble 134;
    /// IPv6 extension headers that we do not follow, or too many of them.
    InvalidExtensionHeader = 6, "invalid_extension_header", hubble 156;
    /// A fragment whose first fragment was not seen or not allowed.
    FragmentNotFound = 7, "fragment_not_found", hubble 175;
    /// A fragment of a flow that an L7 rule covers, or one that could overwrite a TCP header.
    FragmentOfInspectedFlow = 8, "fragment_of_inspected_flow", hubble 157;
    /// Data in a SYN of a flow that an L7 rule covers.
    SynWithData = 9, "syn_with_data", hubble 134;
    /// An L7 verdict is needed and no worker could take the frame (agent down or its ring full).
    NoWorker = 10, "no_worker", hubble 205;
    /// The flow of a frame that the engine gave back is no longer in the table.
    InjectFlowGone = 11, "inject_flow_gone", hubble 190;
    /// A frame on the punt pair without valid punt metadata.
    InjectInvalid = 12, "inject_invalid", hubble 184;
    /// The flow table took no further entry.
    FlowTableFull = 13, "flow_table_full", hubble 155;
    /// The packet belongs to a connection that was denied at L7.
    DeniedConnection = 14, "denied_connection", hubble 0;
    /// The rule demands authentication and there is no authenticator.
    AuthRequired = 15, "auth_required", hubble 189;
    /// The datapath has no configuration yet.
    NoConfiguration = 16, "no_configuration", hubble 165;
    /// The frame is too large for the punt pair.
    PuntTooLarge = 17, "punt_too_large", hubble 134;
    /// The kernel could not read or write the frame.
    FrameAccess = 18, "frame_access", hubble 141;
    /// Rules that cover it contradict each other (L7 rules of different protocols).
    PolicyConflict = 19, "policy_conflict", hubble 133;
    /// In the middle of a conversation that is in no table: perhaps the other side opened it, which the policy denies or
    /// wants to read from the beginning.
    UnknownConnection = 20, "unknown_connection", hubble 0;
    /// A SYN with the sequence number of the connection before it, of which bytes have gone on.
    SequenceReused = 21, "sequence_reused", hubble 0;
    /// The service has nobody behind this port, so no rule can say who would answer.
    ServiceWithoutBackends = 22, "service_without_backends", hubble 158;
    /// Rules demand different things of those who answer behind the service's port, and nobody knows which of them it will be.
    ServiceBackendsDiffer = 23, "service_backends_differ", hubble 133;
    /// An answer that the engine made after the other side had said more; the opener gets another one when it asks again.
    AnswerOvertaken = 24, "answer_overtaken", hubble 0;
    /// The endpoint's policy could not be put into the kernel as a whole, so nothing passes.
    PolicyIncomplete = 25, "policy_incomplete", hubble 133;
    /// Several CPUs had bytes of one connection at once, which goes to the engine; they will come again.
    RequestContended = 26, "request_contended", hubble 0;
    /// A connection that begins so soon behind the one before it on the same addresses and ports that frames of the two in the
    /// engine could not be told apart; its SYN will come again.
    ReusedTooSoon = 27, "reused_too_soon", hubble 0;
    /// A frame that the engine gave back, of a connection that others have followed on the same addresses and ports.
    InjectOtherConnection = 28, "inject_other_connection", hubble 190;
    /// The other side accepts a SYN of an inspected flow that is not the opener's last.
    AcceptsOtherSyn = 29, "accepts_other_syn", hubble 0;
    /// A packet of an inspected flow says that it has urgent data: readers take a byte of those out of the stream.
    UrgentFlag = 30, "urgent_flag", hubble 0;
    /// So many frames of the same client, or of the same endpoint, wait for the worker that there would be no room for others.
    ShareUsedUp = 31, "share_used_up", hubble 205;
    /// In the middle of a connection, in the moment in which what is known of connections is copied from an agent of another
    /// version; it will come again.
    BeingTakenOver = 32, "being_taken_over", hubble 0;
    /// The endpoint asks for a checksum in the middle of what is judged: it would be filled in after the verdict.
    ChecksumElsewhere = 33, "checksum_elsewhere", hubble 134;

    /// No HTTP rule allows the request.
    HttpPolicyDenied = 64, "http_policy_denied", hubble 133;
    /// The request line is not `METHOD SP target SP HTTP/1.x`.
    HttpBadRequestLine = 65, "http_bad_request_line", hubble 0;
    /// The version is neither HTTP/1.0 nor HTTP/1.1.
    HttpBadVersion = 66, "http_bad_version", hubble 0;
    /// The request head exceeds the limit in bytes.
    HttpHeadTooLarge = 67, "http_head_too_large", hubble 0;
    /// The request has more headers than the limit.
    HttpTooManyHeaders = 68, "http_too_many_headers", hubble 0;
    /// A header line is malformed: its name, its colon, a control byte.
    HttpBadHeader = 69, "http_bad_header", hubble 0;
    /// Content-Length and Transfer-Encoding in one request.
    HttpAmbiguousLength = 70, "http_ambiguous_length", hubble 0;
    /// The host is not `name[:port]` or `[address][:port]`.
    HttpBadHost = 71, "http_bad_host", hubble 0;
    /// The size or the end of a chunk is malformed.
    HttpBadChunk = 72, "http_bad_chunk", hubble 0;
    /// The connection does not begin with an HTTP request.
    HttpNotHttp = 73, "http_not_http", hubble 0;
    /// An upgrade or CONNECT that cannot be followed: not first on its connection, with a body, or to several protocols.
    HttpUpgradeUnsupported = 74, "http_upgrade_unsupported", hubble 0;
    /// The target's path cannot be normalised to one meaning.
    HttpAmbiguousPath = 75, "http_ambiguous_path", hubble 0;
    /// A control or NUL byte in the request head.
    HttpControlByte = 76, "http_control_byte", hubble 0;
    /// More than one Content-Length.
    HttpRepeatedLength = 77, "http_repeated_length", hubble 0;
    /// Content-Length is not plain digits (a sign, space, list, leading zero) or too large.
    HttpBadLength = 78, "http_bad_length", hubble 0;
    /// Transfer-Encoding is not exactly one `chunked`.
    HttpBadTransferCoding = 79, "http_bad_transfer_coding", hubble 0;
    /// Transfer-Encoding in HTTP/1.0.
    HttpTransferCodingInOldVersion = 80, "http_transfer_coding_in_old_version", hubble 0;
    /// A CR without LF or an LF without CR ends a line.
    HttpBareLineEnd = 81, "http_bare_line_end", hubble 0;
    /// A header line is folded (it begins with a space or tab).
    HttpFoldedHeader = 82, "http_folded_header", hubble 0;
    /// Space before a header's colon.
    HttpSpaceBeforeColon = 83, "http_space_before_colon", hubble 0;
    /// HTTP/1.1 or HTTP/2 without a host.
    HttpMissingHost = 84, "http_missing_host", hubble 0;
    /// More than one Host.
    HttpRepeatedHost = 85, "http_repeated_host", hubble 0;
    /// Host is another than the authority that the request is addressed to.
    HttpHostContradictsTarget = 86, "http_host_contradicts_target", hubble 0;
    /// An extension of a chunk is malformed or too long.
    HttpBadChunkExtension = 87, "http_bad_chunk_extension", hubble 0;
    /// A trailer is malformed, too long, or of a kind that belongs into the head.
    HttpBadTrailer = 88, "http_bad_trailer", hubble 0;
    /// A request line without version (HTTP/0.9).
    HttpOldProtocol = 89, "http_old_protocol", hubble 0;
    /// A method in lower case.
    HttpLowerCaseMethod = 90, "http_lower_case_method", hubble 0;
    /// More than one empty line before a request.
    HttpEmptyLines = 91, "http_empty_lines", hubble 0;
    /// Expect is another than `100-continue`, or there are several.
    HttpBadExpectation = 92, "http_bad_expectation", hubble 0;
    /// TLS on an HTTP rule: the connection begins with a TLS record.
    HttpTlsOnHttpRule = 93, "http_tls_on_http_rule", hubble 0;
    /// A target whose form does not fit its method: `*` without OPTIONS, another scheme than http, a bare authority.
    HttpBadTargetForm = 94, "http_bad_target_form", hubble 0;
    /// A header about framing is written with an underscore, which some servers take for a hyphen.
    HttpUnderscoreHeader = 95, "http_underscore_header", hubble 0;

    /// The IP or TCP checksum is wrong.
    BadChecksum = 96, "bad_checksum", hubble 153;
    /// The frame's headers cannot be read by the engine.
    EngineInvalidHeader = 97, "engine_invalid_header", hubble 134;
    /// A segment beyond what the engine has seen; the sender will send the missing one again.
    OutOfOrder = 98, "out_of_order", hubble 0;
    /// A retransmission that differs from what was inspected.
    RetransmissionDiffers = 99, "retransmission_differs", hubble 0;
    /// Data with the urgent flag.
    UrgentData = 100, "urgent_data", hubble 0;
    /// The connection was under way before it was inspected and where its requests begin is not known.
    MidStream = 101, "mid_stream", hubble 0;
    /// The engine's memory limit for flows or held bytes is reached.
    EngineLimit = 102, "engine_limit", hubble 0;
    /// The engine knows no endpoint or policy for the frame.
    EngineNoPolicy = 103, "engine_no_policy", hubble 165;
    /// The request head was not complete in time.
    HeadTimeout = 104, "head_timeout", hubble 0;
    /// Inspection failed inside; the flow is closed.
    EngineFault = 105, "engine_fault", hubble 0;
    /// An inspected protocol that this version cannot inspect yet.
    InspectorMissing = 106, "inspector_missing", hubble 180;
    /// The frame waited in the engine until another connection had begun on the same addresses and ports.
    EngineOtherConnection = 107, "engine_other_connection", hubble 0;

    /// No DNS rule allows a question of the query.
    DnsPolicyDenied = 112, "dns_policy_denied", hubble 133;
    /// The query is no DNS message that everybody reads alike.
    DnsMalformed = 113, "dns_malformed", hubble 0;
    /// The message is no query: another operation, an answer, or without a question.
    DnsNotQuery = 114, "dns_not_query", hubble 0;
    /// An answer to a query that was not asked, or is no longer waited for.
    DnsUnsolicitedAnswer = 115, "dns_unsolicited_answer", hubble 0;
    /// The answer is no DNS message that everybody reads alike.
    DnsMalformedAnswer = 116, "dns_malformed_answer", hubble 0;
    /// The addresses in the answer could not be opened.
    DnsNotLearned = 117, "dns_not_learned", hubble 0;

    /// The client preface of HTTP/2 is not followed by what must follow it.
    Http2BadPreface = 144, "http2_bad_preface", hubble 0;
    /// An HTTP/2 frame of a wrong size, on a wrong stream, or where it must not be.
    Http2BadFrame = 145, "http2_bad_frame", hubble 0;
    /// A compressed header block that cannot be decoded (HPACK).
    Http2BadCompression = 146, "http2_bad_compression", hubble 0;
    /// Pseudo-headers of an HTTP/2 request are missing, repeated, unknown or out of place.
    Http2BadPseudoHeader = 147, "http2_bad_pseudo_header", hubble 0;
    /// An HTTP/2 header name or value that is not allowed: upper case, control bytes, space around a value.
    Http2BadHeader = 148, "http2_bad_header", hubble 0;
    /// A header about the connection in an HTTP/2 request.
    Http2ConnectionHeader = 149, "http2_connection_header", hubble 0;
    /// A header block in too many frames (CONTINUATION flood).
    Http2TooManyContinuations = 150, "http2_too_many_continuations", hubble 0;
    /// Too many frames that open no stream and carry no data.
    Http2ControlFlood = 151, "http2_control_flood", hubble 0;
    /// Too many streams are reset (rapid reset).
    Http2ResetFlood = 152, "http2_reset_flood", hubble 0;
    /// Content-Length and the data of an HTTP/2 stream differ.
    Http2LengthMismatch = 153, "http2_length_mismatch", hubble 0;
    /// Too many HTTP/2 streams whose declared length is still to come, or too many tunnels to judge them again.
    Http2TooManyStreams = 154, "http2_too_many_streams", hubble 0;
    /// DATA or trailers on a stream that the client has ended.
    Http2StreamClosed = 155, "http2_stream_closed", hubble 0;
    /// Too many SETTINGS on an HTTP/2 connection.
    Http2SettingsFlood = 156, "http2_settings_flood", hubble 0;
    /// Too many DATA frames with next to nothing in them.
    Http2TinyDataFlood = 157, "http2_tiny_data_flood", hubble 0;

    /// No serverNames rule allows the server name.
    TlsPolicyDenied = 176, "tls_policy_denied", hubble 133;
    /// The ClientHello names no server.
    TlsNoServerName = 177, "tls_no_server_name", hubble 133;
    /// The connection does not speak TLS where server names are demanded.
    TlsNotTls = 178, "tls_not_tls", hubble 0;
    /// The connection begins with an SSL 2 hello, which names no server.
    TlsSslv2Hello = 179, "tls_sslv2_hello", hubble 0;
    /// The connection speaks TLS, but something else stands where a ClientHello must.
    TlsNotClientHello = 180, "tls_not_client_hello", hubble 0;
    /// A record of the ClientHello is empty, too long, mixed with others or holds more than the hello.
    TlsBadRecord = 181, "tls_bad_record", hubble 0;
    /// The ClientHello exceeds the limit in bytes or extensions.
    TlsHelloTooLarge = 182, "tls_hello_too_large", hubble 0;
    /// The ClientHello contradicts itself.
    TlsBadHello = 183, "tls_bad_hello", hubble 0;
    /// An extension of the ClientHello occurs twice.
    TlsRepeatedExtension = 184, "tls_repeated_extension", hubble 0;
    /// The server name extension holds several names, or one that is not plain ASCII text.
    TlsBadServerName = 185, "tls_bad_server_name", hubble 0;
    /// The second ClientHello of a connection carries another server name than the first.
    TlsNameChanged = 186, "tls_name_changed", hubble 0;
    /// The ClientHello is encrypted (ECH), which the configuration forbids.
    TlsEchDenied = 187, "tls_ech_denied", hubble 0;

    /// A datagram that does not begin a QUIC connection, of a connection whose beginning was not seen.
    QuicNotInitial = 192, "quic_not_initial", hubble 0;
    /// A QUIC version that cannot be read.
    QuicUnknownVersion = 193, "quic_unknown_version", hubble 0;
    /// A QUIC packet's header is invalid.
    QuicBadPacket = 194, "quic_bad_packet", hubble 0;
    /// A QUIC Initial packet cannot be decrypted.
    QuicUndecryptable = 195, "quic_undecryptable", hubble 0;
    /// A QUIC Initial packet holds an invalid frame, or pieces of the handshake contradict each other.
    QuicBadHandshake = 196, "quic_bad_handshake", hubble 0;
    /// The ClientHello of a QUIC connection came in more datagrams than are held back, or one has more packets than are read.
    QuicHelloTooLong = 197, "quic_hello_too_long", hubble 0;
    /// Connections with more names than are remembered began under the same addresses and ports.
    QuicTooManyNames = 198, "quic_too_many_names", hubble 0;
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn codes_are_ascending_so_none_is_used_twice() {
        assert!(DropReason::ALL.windows(2).all(|w| (w[0] as u8) < (w[1] as u8)));
    }

    #[test]
    fn every_code_maps_back_to_its_reason() {
        for &reason in DropReason::ALL {
            assert_eq!(DropReason::from_code(reason as u8), Some(reason));
            assert!(!reason.name().is_empty() && reason.description().ends_with('.'));
        }
        assert_eq!(DropReason::from_code(0), None);
    }
}
