//! Messages of the .proto files in `proto/`.

macro_rules! package {
    ($(#[$doc:meta])* $name:ident, $file:literal, $($lint:path),*) => {
        $(#[$doc])*
        #[expect(missing_docs, $($lint,)* reason = "generated; the .proto file has the words")]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", $file, ".rs"));
        }
    };
}

package!(
    /// `proto/flow`
    flow, "flow", clippy::doc_markdown, clippy::too_many_lines);
package!(
    /// `proto/observer`
    observer, "observer", clippy::large_enum_variant);
package!(
    /// `proto/peer`
    peer, "peer", clippy::doc_markdown);
package!(
    /// `proto/relay`
    relay, "relay", clippy::doc_markdown);
