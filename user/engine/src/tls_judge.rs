//! What the rules say of one ClientHello, over TCP or QUIC, and what is told about it.

use crate::flow::FlowPolicy;
use crate::inspector::Judge;
use crate::judge::{About, Desk};
use crate::record::{Inside, TlsRecord};
use crate::tls::{HelloJudge, SeenHello};
use seventh_abi::DropReason;
use seventh_parsers::packet::PROTOCOL_UDP;
use seventh_parsers::tls::ClientHello;
use seventh_policy::{RuleOrigin, RuleSet};
use std::sync::Arc;

/// Bytes of the list of application protocols that a record keeps.
const RECORD_ALPN_MAX: usize = 128;

impl HelloJudge for Judge<'_> {
    fn hello(&mut self, hello: &ClientHello<'_>, earlier: Option<&SeenHello>) -> Result<(), DropReason> {
        self.desk.judge_hello(hello, earlier, self.policy, self.about)
    }

    fn again(&mut self, seen: &SeenHello) -> Result<(), DropReason> {
        self.desk.judge_hello_again(seen, self.policy, self.about)
    }

    fn allows_all(&self) -> bool {
        allows_all(&self.policy.rules)
    }
}

impl Desk {
    /// Judges a ClientHello. An allowed one is recorded here; a refused one by [`Desk::record_drop`], once its refusal
    /// is final.
    pub(crate) fn judge_hello(
        &mut self,
        hello: &ClientHello<'_>,
        earlier: Option<&SeenHello>,
        policy: &FlowPolicy,
        about: &About<'_>,
    ) -> Result<(), DropReason> {
        let name = hello.server_name.as_deref();
        self.note(Inside::Tls(TlsRecord {
            server_name: name.unwrap_or_default().to_owned(),
            version: hello.version,
            alpn: alpn_text(hello),
            ech: hello.ech,
            quic: about.protocol == PROTOCOL_UDP,
        }));
        let changed = earlier.is_some_and(|earlier| earlier.server_name.as_deref() != name);
        let verdict = if changed && !allows_all(&policy.rules) {
            Err(DropReason::TlsNameChanged)
        } else {
            self.hello_verdict(&policy.rules, name, hello.ech)
        };
        match verdict {
            Ok(origin) => {
                self.record_allowed(about, origin);
                Ok(())
            }
            Err(reason) => self.refuse(about, reason),
        }
    }

    /// Judges what a connection goes on under, after a change of policy. Only a refusal is recorded, by
    /// [`Desk::record_drop`].
    pub(crate) fn judge_hello_again(
        &mut self,
        seen: &SeenHello,
        policy: &FlowPolicy,
        about: &About<'_>,
    ) -> Result<(), DropReason> {
        let name = seen.server_name.as_deref();
        self.note(Inside::Tls(TlsRecord {
            server_name: name.unwrap_or_default().to_owned(),
            ech: seen.ech,
            quic: about.protocol == PROTOCOL_UDP,
            ..TlsRecord::default()
        }));
        if let Err(reason) = self.hello_verdict(&policy.rules, name, seen.ech) {
            return self.refuse(about, reason);
        }
        self.forget_request();
        Ok(())
    }

    /// The rule that allows the name; none where there are no rules.
    fn hello_verdict(
        &self,
        rules: &RuleSet,
        name: Option<&str>,
        ech: bool,
    ) -> Result<Option<Arc<RuleOrigin>>, DropReason> {
        if rules.observes() {
            return Ok(None);
        }
        if ech && self.deny_ech {
            return Err(DropReason::TlsEchDenied);
        }
        let names = rules.tls().ok_or(DropReason::InspectorMissing)?;
        // No name is as long as none.
        let key = self
            .shared
            .hasher
            .begin()
            .number(rules.id())
            .bytes(name.unwrap_or_default().as_bytes())
            .finish();
        let denied = if name.is_some() {
            DropReason::TlsPolicyDenied
        } else {
            DropReason::TlsNoServerName
        };
        let rule = self.cached(&key, || Ok(names.judge(name)))?.ok_or(denied)?;
        Ok(names.origin(rule).cloned())
    }
}

/// Whether whatever is sent may pass.
fn allows_all(rules: &RuleSet) -> bool {
    rules.allows_all().is_some() || rules.observes()
}

/// The protocols offered, for people: joined by commas, what is not plain ASCII escaped.
fn alpn_text(hello: &ClientHello<'_>) -> String {
    let mut text = String::new();
    for protocol in hello.alpn.iter() {
        if text.len() >= RECORD_ALPN_MAX {
            break;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.extend(protocol.escape_ascii().map(char::from));
    }
    text.truncate(RECORD_ALPN_MAX);
    text
}
