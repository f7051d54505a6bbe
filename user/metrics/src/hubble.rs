//! Metrics with the names and labels that Hubble gave them.

crate::metrics! {
    LOST_EVENTS: Counter "hubble_lost_events_total" ["source"] "" "Events that were lost before they became flow records, or records before they were counted";
    HTTP_HANDLER: Counter "hubble_metrics_http_handler_requests_total" ["code"] "" "Answers of the metrics page";
    HTTP_HANDLER_SECONDS: Histogram "hubble_metrics_http_handler_request_duration_seconds" ["code"] "" "How long the metrics page took";
    EXPORTERS: Gauge "hubble_dynamic_exporter_exporters_total" ["status"] "" "Configured exporters that are active, and those whose end has come";
    EXPORTER_UP: Gauge "hubble_dynamic_exporter_up" ["name"] "" "1 if the exporter is active, else 0";
    EXPORTER_CHANGES: Counter "hubble_dynamic_exporter_reconfigurations_total" ["op"] "" "Exporters that were added, updated or removed by a change of the file";
    EXPORTER_HASH: Gauge "hubble_dynamic_exporter_config_hash" [] "" "A number that is another one whenever the file that is in force is";
    EXPORTER_APPLIED: Gauge "hubble_dynamic_exporter_config_last_applied" [] "" "When the file was last put in force, in seconds since 1970";
    DNS_QUERIES: Counter "hubble_dns_queries_total" ["rcode", "qtypes", "ips_returned"] "dns" "DNS queries";
    DNS_RESPONSES: Counter "hubble_dns_responses_total" ["rcode", "qtypes", "ips_returned"] "dns" "DNS answers";
    DNS_TYPES: Counter "hubble_dns_response_types_total" ["type", "qtypes"] "dns" "Records in DNS answers";
    DROP: Counter "hubble_drop_total" ["reason", "protocol"] "drop" "Flows that were dropped; a refusal that is told as verdict and as drop counts once";
    FLOWS: Counter "hubble_flows_processed_total" ["type", "subtype", "verdict"] "flow" "Flow records";
    FLOWS_TO_WORLD: Counter "hubble_flows_to_world_total" ["protocol", "verdict"] "flows-to-world" "New flows to addresses outside the cluster";
    HTTP_REQUESTS_V1: Counter "hubble_http_requests_total" ["method", "protocol", "reporter"] "http" "HTTP requests";
    HTTP_RESPONSES_V1: Counter "hubble_http_responses_total" ["method", "status", "reporter"] "http" "HTTP answers";
    HTTP_SECONDS_V1: Histogram "hubble_http_request_duration_seconds" ["method", "reporter"] "http" "Time between an HTTP request and its answer";
    HTTP_REQUESTS: Counter "hubble_http_requests_total" ["method", "protocol", "status", "reporter"] "httpV2" "HTTP requests that were answered";
    HTTP_SECONDS: Histogram "hubble_http_request_duration_seconds" ["method", "reporter"] "httpV2" "Time between an HTTP request and its answer";
    ICMP: Counter "hubble_icmp_total" ["family", "type"] "icmp" "ICMP messages";
    POLICY_VERDICTS: Counter "hubble_policy_verdicts_total" ["direction", "match", "action"] "policy" "Verdicts of policies on new flows and on requests";
    PORTS: Counter "hubble_port_distribution_total" ["protocol", "port"] "port-distribution" "New flows that passed, by destination port";
    TCP_FLAGS: Counter "hubble_tcp_flags_total" ["flag", "family"] "tcp" "TCP flags of segments that are told of";
}
