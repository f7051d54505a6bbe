//! Metrics of our own.

crate::metrics! {
    BUILD_INFO: Gauge "seventh_build_info" ["version"] "" "Always 1; the label says which version runs";
    START_TIME: Gauge "seventh_start_time_seconds" [] "" "When the agent started, in seconds since 1970";
    READY: Gauge "seventh_ready" [] "" "1 if policies are in force and every worker works, else 0";
    PACKETS: Counter "seventh_packets_total" ["path"] "" "Packets at endpoints by the way they went through the kernel";
    DROPS: Counter "seventh_drops_total" ["reason"] "" "Packets dropped and requests refused, by the reasons of docs/drop-reasons.md";
    KERNEL_FLOWS: Counter "seventh_kernel_flows_total" ["event"] "" "Flows that entered the kernel's table, and those decided again under another policy";
    ENGINE_FRAMES: Counter "seventh_engine_frames_total" ["outcome"] "" "Frames that the engine decided, by what became of them; drops are told elsewhere";
    REQUESTS: Counter "seventh_requests_total" ["judge", "verdict"] "" "Requests that were judged, by the engine or by the kernel itself";
    CACHE: Counter "seventh_verdict_cache_lookups_total" ["result"] "" "Verdicts taken from the cache, and those asked of the rules";
    VERDICT_SECONDS: Histogram "seventh_verdict_seconds" [] "" "How long the engine took to decide a frame; a sample, at least one frame per turn of a worker";
    CONNECTIONS_EVENTS: Counter "seventh_connections_total" ["event"] "" "Connections that the engine took up, forgot in time, or forgot for lack of room";
    CONNECTIONS: Gauge "seventh_connections" [] "" "Connections that the engine knows at present";
    HELD_BYTES: Gauge "seventh_held_bytes" [] "" "Bytes that the engine holds for heads and for comparing retransmissions";
    BYPASSES: Counter "seventh_bypasses_granted_total" [] "" "Bodies that were given free, to pass in the kernel";
    WORKERS: Gauge "seventh_workers" ["state"] "" "Workers by how they are";
    WORKER_FRAMES: Counter "seventh_worker_frames_total" ["worker", "way"] "" "Frames on the punt channel of each worker: received, sent, and lost on either way";
    WORKER_UNACCOUNTED: Gauge "seventh_worker_frames_unaccounted" ["worker"] "" "Places for frames that are in no ring and in nobody's hands: some while traffic flows, none without";
    WORKER_PANICS: Counter "seventh_worker_panics_total" ["worker"] "" "How often a worker's engine panicked and was made anew; each is a bug to report";
    LOST: Counter "seventh_lost_records_total" ["source"] "" "Records that found a queue full, of the kernel or of the engine, and frames of our own that found the outbox full";
    FQDN_NAMES: Gauge "seventh_fqdn_names" [] "" "Names that endpoints have resolved and rules ask for";
    FQDN_ADDRESSES: Gauge "seventh_fqdn_addresses" [] "" "Pairs of endpoint and address that are open because of a name";
    MAP_ENTRIES: Gauge "seventh_map_entries" ["map"] "" "Entries of the kernel's maps, counted at most every 15 seconds";
    MAP_CAPACITY: Gauge "seventh_map_capacity" ["map"] "" "Entries that the kernel's maps have room for";
    ENDPOINTS: Gauge "seventh_endpoints" ["state"] "" "Endpoints by how they are";
    UNMANAGED: Gauge "seventh_unmanaged_pods" ["cause"] "" "Pods of this node on which, or on a further device of which, nothing is enforced";
    API_STALE: Gauge "seventh_kubernetes_stale_seconds" ["kind"] "" "For how long objects of a kind have not been followed; 0 while they are";
    API_REFUSED: Gauge "seventh_kubernetes_refused_objects" ["kind"] "" "Objects that are not taken into account because there are too many of their kind";
    API_UNREADABLE: Counter "seventh_kubernetes_unreadable_objects_total" [] "" "Objects of the API server that could not be read";
    POLICY_REVISION: Gauge "seventh_policy_revision" [] "" "How often something has been put in force";
    POLICY_CHANGE_TIME: Gauge "seventh_policy_change_time_seconds" [] "" "When policy was last put in force, in seconds since 1970";
    POLICY_CURRENT: Gauge "seventh_policy_current" [] "" "1 if all documents are in force as they are written, 0 if an earlier state is";
    POLICY_DOCUMENTS: Gauge "seventh_policy_documents" [] "" "Documents in force";
    EXPORT_WRITTEN: Counter "seventh_export_written_total" ["exporter"] "" "Records that an exporter wrote";
    EXPORT_LOST: Counter "seventh_export_lost_total" ["exporter"] "" "Records that were overwritten before a slow exporter came to them";
    EXPORT_ERRORS: Counter "seventh_export_errors_total" ["exporter"] "" "Records that an exporter could not write; the log says why";
    CONFIG_VALID: Gauge "seventh_dynamic_config_valid" ["file"] "" "1 if the file that is reloaded live is in force as it is written, 0 if an earlier state is";
    OVERFLOW: Counter "seventh_metrics_overflow_total" ["metric"] "" "Samples that were not counted because the metric has too many series";
}
