//! Policy documents on disk, and what they come to for each endpoint.

mod kept;

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Result, ensure};
use ipnet::IpNet;
use seventh_abi::Direction;
use seventh_engine::{NameClass, NameRules, Names, SCOPE_NODE};
use seventh_kube::object::FILE_PREFIX;
use seventh_policy::{
    CompileOptions, CompiledPolicy, Compiler, Documents, EndpointFacts, Finding, Identities, IdentityId, Ipcache,
    Labels, Loader, NearMiss, Owner, PolicyPatch, Severity, document::Document, governs, identity::prefix_labels,
    load_text, name_pattern::NamePattern, name_selectors_of, nearest_rule, prefixes_of, resolve, rule::PolicyRule,
};
use tracing::warn;

use self::kept::Kept;
pub(crate) use self::kept::ToKeep;
use crate::{
    audit::AuditModes,
    config::{Config, EndpointConfig},
    inventory::{Held, Holders, Inventory},
    observer::Denied,
};

/// Identities that are made while answers wait, between two changes of policy, at most: one per combination of selectors
/// that meet at an address. Whoever makes more of them plays games. Each endpoint has its part of them, and a few at
/// least.
const CLASSES_MAX: usize = 4096;
const CLASSES_MIN: usize = 16;

/// The documents in force and the compiler that knows them.
pub(crate) struct PolicyStore {
    paths: Vec<PathBuf>,
    loader: Loader,
    compiler: Compiler,
    modes: AuditModes,
    holders: Holders,
    in_force: Vec<Arc<Document>>,
    /// Of a cluster's policies.
    kept: Option<Kept>,
    node_wide_names: bool,
    /// Identities of addresses that are known by name.
    classes: HashMap<NameClass, IdentityId>,
    /// Those of them that nothing needed when policy was loaded last.
    unneeded: HashSet<NameClass>,
    /// How many were made since, by the endpoint whose answer needed them first.
    defined: HashMap<u32, usize>,
    /// How many each may need.
    classes_max: usize,
}

/// What a load has come to.
pub(crate) struct Loaded {
    /// What to enforce on.
    pub(crate) endpoints: Vec<EndpointConfig>,
    /// Of each of them, in their order.
    pub(crate) policies: Vec<EndpointPolicy>,
    /// Who has which identity.
    pub(crate) held: Held,
    /// Changes of policies that keep their number; write them before anything else.
    pub(crate) patches: Vec<PolicyPatch>,
    /// Prefixes that rules name, with their identities.
    pub(crate) prefixes: HashMap<IpNet, IdentityId>,
    /// What rules ask of names.
    pub(crate) names: LoadedNames,
    /// Everything found wrong or doubtful.
    pub(crate) findings: Vec<Finding>,
    /// Errors that keep documents, or files, from being used.
    pub(crate) rejections: usize,
    /// Those of them that are in files of this node.
    pub(crate) rejections_in_files: usize,
    /// References to what is not there; the documents are in force, the rules select nobody by them.
    pub(crate) dangling: usize,
    /// Rules that contradict each other at an endpoint, whose traffic is therefore denied.
    pub(crate) conflicts: usize,
    /// Documents in force.
    pub(crate) documents: usize,
}

/// The policies of one endpoint.
pub(crate) struct EndpointPolicy {
    /// What is enforced.
    pub(crate) enforced: Arc<CompiledPolicy>,
    /// All that there is, if not all of it is enforced.
    pub(crate) audit: Option<Arc<CompiledPolicy>>,
    /// The endpoint as a whole is in audit.
    pub(crate) is_audited: bool,
}

impl EndpointPolicy {
    /// Of all documents, as if all were enforced.
    pub(crate) fn all(&self) -> &Arc<CompiledPolicy> {
        self.audit.as_ref().unwrap_or(&self.enforced)
    }
}

/// What rules ask of names; the ipcache makes it [`NameRules`].
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LoadedNames {
    selectors: Vec<NamePattern>,
    prefixes: HashMap<IpNet, IdentityId>,
    classes: HashMap<NameClass, IdentityId>,
    node_wide: bool,
}

impl LoadedNames {
    /// Whether any rule mentions a name.
    pub(crate) fn are_asked_for(&self) -> bool {
        !self.selectors.is_empty()
    }

    /// One more identity that policies know.
    pub(crate) fn insert(&mut self, class: NameClass, identity: IdentityId) {
        self.classes.insert(class, identity);
    }

    pub(crate) fn rules(&self, ipcache: &Arc<Ipcache>) -> NameRules {
        let prefixes = self.prefixes.iter().map(|(prefix, identity)| (*prefix, *identity));
        NameRules::new(self.selectors.clone(), Arc::clone(ipcache), prefixes)
            .node_wide(self.node_wide)
            .with_identities(self.classes.clone())
    }
}

impl PolicyStore {
    /// A store without policies that knows which endpoints are in audit.
    pub(crate) fn new(config: &Config, modes: AuditModes) -> Self {
        let options = CompileOptions {
            enforcement: config.enforcement,
            allow_localhost: config.allow_localhost,
        };
        Self {
            paths: config.policy_dirs.clone(),
            loader: Loader::default(),
            compiler: Compiler::new(options),
            modes,
            holders: Holders::default(),
            in_force: Vec::new(),
            kept: config.kubernetes.is_some().then(|| {
                let (kept, read) = Kept::read(&config.fqdn.state_file.with_file_name("policies.json"));
                if let Err(e) = read {
                    warn!(
                        error = format!("{e:#}"),
                        "policies that are broken now are not known as they were before"
                    );
                }
                kept
            }),
            node_wide_names: config.fqdn.node_wide,
            classes: HashMap::new(),
            unneeded: HashSet::new(),
            defined: HashMap::new(),
            classes_max: CLASSES_MAX,
        }
    }

    /// Reads what has changed, for those who are there. Where a file (or an object of a cluster) has an error, the
    /// documents that were in force from it stay.
    ///
    /// # Errors
    /// The compiler has run out of numbers, or there are more label sets than identities.
    pub(crate) fn load(&mut self, inventory: &Inventory, names: &[&Names]) -> Result<Loaded> {
        let texts = inventory
            .cluster
            .iter()
            .flat_map(|cluster| cluster.texts.iter().cloned());
        let read = self.loader.load_with(&self.paths, texts);
        let mut findings = read.findings;
        findings.extend(self.emptied_files());
        let broken: HashSet<Arc<str>> = errors(&findings).map(|finding| Arc::clone(&finding.file)).collect();
        let rejections = errors(&findings).count();
        let in_files = |finding: &&Finding| !finding.file.starts_with(FILE_PREFIX);
        let rejections_in_files = errors(&findings).filter(in_files).count();
        self.recall(&broken);
        self.replace(&broken, read.documents);
        if let (Some(kept), Some(cluster)) = (&mut self.kept, &inventory.cluster) {
            kept.follow(cluster.texts.iter(), &broken);
        }
        let resolved = resolve(&self.in_force, &inventory.surroundings());
        let dangling = errors(&resolved.findings).count();
        findings.extend(resolved.findings);
        let mut patches = Vec::new();
        let mut prefixes = HashMap::new();
        for prefix in prefixes_of(&resolved.rules) {
            let (identity, changed) = self.compiler.add_identity(&prefix_labels(prefix))?;
            prefixes.insert(prefix, identity);
            patches.extend(changed);
        }
        let held = self
            .holders
            .hold(&mut self.compiler, inventory, &prefixes, &mut patches)?;
        self.classes_max = (CLASSES_MAX / inventory.endpoints.len().max(1)).max(CLASSES_MIN);
        let mut loaded_names = LoadedNames {
            selectors: name_selectors_of(&resolved.rules),
            prefixes: prefixes.clone(),
            classes: HashMap::new(),
            node_wide: self.node_wide_names,
        };
        patches.extend(self.classify(&loaded_names, names)?);
        loaded_names.classes.clone_from(&self.classes);
        self.compiler.set_rules(resolved.rules);
        let policies = self.compile(&inventory.endpoints)?;
        let conflicts = conflicts(&policies);
        let conflicting = conflicts.len();
        findings.extend(conflicts);
        Ok(Loaded {
            endpoints: inventory.endpoints.clone(),
            policies,
            held,
            conflicts: conflicting,
            patches,
            prefixes,
            names: loaded_names,
            findings,
            rejections,
            rejections_in_files,
            dangling,
            documents: self.in_force.len(),
        })
    }

    /// Identities for what is known by name, and for what is likely to be; those that nothing needs for the second time
    /// go.
    fn classify(&mut self, rules: &LoadedNames, names: &[&Names]) -> Result<Vec<PolicyPatch>> {
        let mut outside = Ipcache::new();
        for (prefix, identity) in &rules.prefixes {
            let owner = Owner {
                identity: *identity,
                ifindex: 0,
            };
            outside.insert(*prefix, owner);
        }
        let rules = rules.rules(&Arc::new(outside));
        let mut needed: HashSet<NameClass> = rules.plain_classes().collect();
        needed.extend(names.iter().flat_map(|names| names.classes_under(&rules)));
        let mut patches = Vec::new();
        for class in &needed {
            let (identity, changed) = self.compiler.add_identity(&class.labels())?;
            self.classes.insert(class.clone(), identity);
            patches.extend(changed);
        }
        let unneeded: HashSet<NameClass> = self
            .classes
            .keys()
            .filter(|class| !needed.contains(class))
            .cloned()
            .collect();
        for class in unneeded.intersection(&self.unneeded) {
            if let Some(identity) = self.classes.remove(class) {
                patches.extend(self.compiler.remove_identity(identity));
            }
        }
        self.unneeded = unneeded;
        self.defined.clear();
        Ok(patches)
    }

    /// The identity of a class of addresses, made now if it has none, for the endpoint with this number
    /// ([`seventh_engine::SCOPE_NODE`]: for none in particular).
    ///
    /// # Errors
    /// The endpoint has needed too many since policy was loaded, or all numbers are used.
    pub(crate) fn define(&mut self, scope: u32, class: &NameClass) -> Result<(IdentityId, Vec<PolicyPatch>)> {
        if let Some(identity) = self.classes.get(class) {
            return Ok((*identity, Vec::new()));
        }
        let max = if scope == SCOPE_NODE {
            CLASSES_MAX
        } else {
            self.classes_max
        };
        let defined = self.defined.entry(scope).or_default();
        ensure!(
            *defined < max,
            "{max} combinations of toFQDNs selectors have met at addresses of one endpoint; use fewer that match the same \
             names"
        );
        *defined += 1;
        let (identity, patches) = self.compiler.add_identity(&class.labels())?;
        self.classes.insert(class.clone(), identity);
        Ok((identity, patches))
    }

    /// Whether the next [`Self::load`] has something to do even if nothing changes.
    pub(crate) fn is_waiting(&self) -> bool {
        self.holders.is_waiting()
    }

    /// What the compiler makes of rules.
    pub(crate) fn options(&self) -> &CompileOptions {
        self.compiler.options()
    }

    /// The same, to change it; the next [`Self::load`] goes by it.
    pub(crate) fn options_mut(&mut self) -> &mut CompileOptions {
        self.compiler.options_mut()
    }

    /// Whether every endpoint is in audit of which nothing else was said.
    pub(crate) fn audits_all(&self) -> bool {
        self.modes.all()
    }

    /// Changes that with the next load, until the agent ends.
    pub(crate) fn set_audit_all(&mut self, audit: bool) {
        self.modes.set_all(audit);
    }

    /// Puts an endpoint as a whole in audit, or out of it, with the next load.
    ///
    /// # Errors
    /// It cannot be written down; nothing has changed then.
    pub(crate) fn set_audit(&mut self, endpoint: &str, audit: bool) -> Result<()> {
        self.modes.tell(endpoint, audit)
    }

    /// The documents in force.
    pub(crate) fn documents(&self) -> &[Arc<Document>] {
        &self.in_force
    }

    /// The identities that rules tell apart.
    pub(crate) fn identities(&self) -> &Identities {
        self.compiler.identities()
    }

    /// The rule that came nearest to allowing what the endpoint's policies deny, those in audit included.
    pub(crate) fn nearest(&self, endpoint: &EndpointConfig, denied: &Denied) -> Option<NearMiss> {
        let direction = if denied.egress {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        let facts = facts(endpoint);
        let content = denied.content();
        nearest_rule(&self.compiler, (direction, &facts), denied.peer, denied.port, content)
    }

    /// Whether one of the document's rules governs an endpoint with these labels.
    pub(crate) fn governs(&self, document: &Document, labels: &Labels) -> bool {
        let origin = &document.origin;
        let of_document = |rule: &&Arc<PolicyRule>| {
            rule.origin.document == origin.document
                && rule.origin.file == origin.file
                && (&rule.origin.kind, &rule.origin.namespace, &rule.origin.name)
                    == (&origin.kind, &origin.namespace, &origin.name)
        };
        let mut rules = self.compiler.rules().filter(of_document);
        rules.any(|rule| governs(&rule.subject, labels))
    }

    /// Files that held policies and hold no byte now: somebody is writing them, or something went wrong. To open the gate
    /// on that would be the wrong guess.
    fn emptied_files(&self) -> Vec<Finding> {
        let files = self.in_force.iter().map(|document| &document.origin.file);
        let files: HashSet<&Arc<str>> = files.filter(|file| !file.starts_with(FILE_PREFIX)).collect();
        let is_empty = |file: &str| fs::metadata(file).is_ok_and(|metadata| metadata.len() == 0);
        let emptied = files.into_iter().filter(|file| is_empty(file));
        emptied
            .map(|file| Finding {
                severity: Severity::Error,
                file: Arc::clone(file),
                document: 0,
                line: 0,
                column: 0,
                object: String::new(),
                field: String::new(),
                reason: "is empty now; remove the file if its policies are to go".to_owned(),
            })
            .collect()
    }

    /// Policies that are broken when an agent starts were in force before, as an earlier agent has written down.
    fn recall(&mut self, broken: &HashSet<Arc<str>>) {
        let Some(kept) = &self.kept else { return };
        let known: HashSet<&Arc<str>> = self.in_force.iter().map(|document| &document.origin.file).collect();
        let lost = broken.iter().filter(|file| !known.contains(file));
        let texts = lost.filter_map(|file| Some((file, kept.text(file)?)));
        let recalled: Vec<Arc<Document>> = texts
            .map(|(file, text)| load_text(file, text))
            .filter(|loaded| !loaded.has_errors())
            .flat_map(|loaded| loaded.documents)
            .collect();
        self.in_force.extend(recalled);
    }

    /// What the next agent has to know of a cluster's policies, if that has changed.
    pub(crate) fn take_kept(&mut self) -> Option<ToKeep> {
        self.kept.as_mut()?.take()
    }

    /// A file with an error keeps, as a whole, what was in force from it; one that never was in force gives what is
    /// sound in it. A file that cannot be read is a file with an error; one that is gone takes its documents along.
    fn replace(&mut self, broken: &HashSet<Arc<str>>, read: Vec<Arc<Document>>) {
        let mut kept = std::mem::take(&mut self.in_force);
        kept.retain(|document| broken.contains(&document.origin.file));
        let kept_files: HashSet<Arc<str>> = kept.iter().map(|document| Arc::clone(&document.origin.file)).collect();
        self.in_force = kept;
        let sound = read
            .into_iter()
            .filter(|document| !kept_files.contains(&document.origin.file));
        self.in_force.extend(sound);
    }

    fn compile(&mut self, endpoints: &[EndpointConfig]) -> Result<Vec<EndpointPolicy>> {
        let Self { compiler, modes, .. } = self;
        endpoints
            .iter()
            .map(|endpoint| {
                let facts = facts(endpoint);
                let is_audited = modes.of(endpoint);
                let documents = if is_audited {
                    Documents::None
                } else {
                    Documents::Enforced
                };
                let audits = is_audited || compiler.is_audited(&facts);
                let all = if audits { Some(compiler.compile(&facts)?) } else { None };
                Ok(EndpointPolicy {
                    enforced: compiler.compile_of(&facts, documents)?,
                    // Where no document governs it there is nothing to tell, and the kernel need not look.
                    audit: all.filter(|all| DIRECTIONS.into_iter().any(|direction| all.enforced(direction))),
                    is_audited,
                })
            })
            .collect()
    }
}

/// What contradicts itself at an endpoint, each once, whether it is enforced or in audit.
fn conflicts(policies: &[EndpointPolicy]) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for conflict in policies.iter().flat_map(|policy| policy.all().conflicts()) {
        let finding = conflict.finding();
        found.extend(finding.filter(|finding| !found.contains(finding)));
    }
    found
}

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

fn facts(endpoint: &EndpointConfig) -> EndpointFacts {
    EndpointFacts {
        labels: endpoint.labels.clone(),
        named_ports: endpoint.named_ports.clone(),
    }
}

fn errors(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    findings.iter().filter(|finding| finding.severity == Severity::Error)
}

#[cfg(test)]
mod tests {
    use super::{AuditModes, CompiledPolicy, Inventory, Loaded, Names, PolicyStore};
    use crate::{config::Config, inventory::ClusterPart};
    use seventh_abi::Direction;
    use std::{fs, path::PathBuf};
    use tempfile::TempDir;

    const NAMED: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: NAME}\nspec:\n  \
                         endpointSelector: {matchLabels: {app: web}}\n  ingress:\n  - fromCIDR: [192.0.2.0/24]\n";

    fn policy(name: &str) -> String {
        NAMED.replace("NAME", name)
    }

    /// A directory of policies, and the store that reads it.
    struct Files {
        dir: TempDir,
        config: Config,
        store: PolicyStore,
    }

    impl Files {
        /// For one endpoint.
        fn new() -> Self {
            Self::of("[{name: default/web, labels: {app: web}, interface: v0, ips: [10.0.0.1]}]")
        }

        fn of(endpoints: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("p")).unwrap();
            let config = config(&dir, &format!("policyDirs: [p]\nendpoints: {endpoints}"));
            let store = PolicyStore::new(&config, AuditModes::kept(&config).unwrap());
            Self { dir, config, store }
        }

        fn file(&self, name: &str) -> PathBuf {
            self.dir.path().join("p").join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.file(name), text).unwrap();
        }

        fn load(&mut self) -> Loaded {
            let inventory = Inventory::of_file(&self.config);
            self.store.load(&inventory, &[&Names::default()]).unwrap()
        }
    }

    fn config(dir: &TempDir, text: &str) -> Config {
        let text = format!("api: {}/seventh.sock\n{text}", dir.path().display());
        Config::parse(&dir.path().join("config.yaml"), &text).unwrap()
    }

    fn enforced(loaded: &Loaded) -> bool {
        loaded.policies[0].enforced.enforced(Direction::Ingress)
    }

    #[test]
    fn a_policy_of_a_cluster_that_is_broken_when_an_agent_starts_stays_as_it_was() {
        let files = Files::new();
        let config = config(&files.dir, "kubernetes: {}\n");
        let load = |store: &mut PolicyStore, texts: &[(&str, String)]| {
            let inventory = Inventory {
                endpoints: files.config.endpoints.clone(),
                cluster: Some(ClusterPart {
                    texts: texts
                        .iter()
                        .map(|(name, text)| ((*name).into(), text.as_str().into()))
                        .collect(),
                    ..ClusterPart::default()
                }),
                ..Inventory::default()
            };
            store.load(&inventory, &[&Names::default()]).unwrap()
        };
        let begin = || PolicyStore::new(&config, AuditModes::kept(&config).unwrap());
        let (a, b) = ("k8s:CiliumNetworkPolicy/default/a", "k8s:CiliumNetworkPolicy/default/b");
        let broken = "kind: [".to_owned();

        let mut first = begin();
        assert!(enforced(&load(&mut first, &[(a, policy("one"))])));
        first.take_kept().unwrap().write().unwrap();
        assert!(first.take_kept().is_none(), "nothing has changed");
        let mut second = begin();
        let loaded = load(&mut second, &[(a, broken.clone()), (b, broken.clone())]);
        assert!(enforced(&loaded) && loaded.rejections == 2 && loaded.documents == 1);
        // What is gone is not recalled, and what was broken is not kept.
        assert!(!enforced(&load(&mut second, &[(b, broken.clone())])));
        second.take_kept().unwrap().write().unwrap();
        assert!(!enforced(&load(&mut begin(), &[(a, broken)])));
    }

    #[test]
    fn a_file_that_breaks_keeps_what_was_in_force_from_it() {
        let mut files = Files::new();
        files.write("a.yaml", &policy("one"));
        let before = files.load();
        let prefix = "192.0.2.0/24".parse().unwrap();
        assert!(enforced(&before) && before.rejections == 0 && before.prefixes.contains_key(&prefix));
        for broken in [
            "kind: [",
            "",
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: one}\nspec: {endpointSelektor: {}}\n",
        ] {
            files.write("a.yaml", broken);
            let after = files.load();
            assert!(after.rejections > 0, "{broken}");
            assert!(enforced(&after));
            assert_eq!(
                after.policies[0].enforced.policy_id(),
                before.policies[0].enforced.policy_id()
            );
        }
    }

    #[test]
    fn one_broken_file_does_not_keep_another_from_changing() {
        let mut files = Files::new();
        files.write("broken.yaml", "kind: [");
        files.write("good.yaml", &policy("one"));
        assert!(enforced(&files.load()));
        fs::remove_file(files.file("good.yaml")).unwrap();
        let without = files.load();
        assert!(!enforced(&without));
        assert_eq!((without.documents, without.rejections), (0, 1));
    }

    #[test]
    fn a_reference_to_nothing_is_counted_and_its_document_is_in_force() {
        let mut files = Files::new();
        let dangling = policy("one").replace("fromCIDR: [192.0.2.0/24]", "fromCIDRSet: [{cidrGroupRef: missing}]");
        files.write("a.yaml", &dangling);
        let loaded = files.load();
        assert_eq!((loaded.rejections, loaded.dangling, loaded.documents), (0, 1, 1));
        assert!(enforced(&loaded));
    }

    #[test]
    fn rules_that_contradict_each_other_at_an_endpoint_are_told() {
        let mut files = Files::new();
        let rules = |name: &str, subject: &str, l7: &str| {
            format!(
                "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n  endpointSelector: \
                 {subject}\n  ingress:\n  - toPorts: [{{ports: [{{port: '443', protocol: TCP}}], {l7}}}]\n"
            )
        };
        let text = rules("http", "{}", "rules: {http: [{method: GET}]}")
            + &rules("tls", "{matchLabels: {app: web}}", "serverNames: [a.b]");
        files.write("a.yaml", &text);
        let loaded = files.load();
        assert_eq!((loaded.conflicts, loaded.rejections), (1, 0));
        let told = loaded.findings.last().unwrap().to_string();
        assert!(
            told.contains("policy_conflict") && told.contains("default/http") && told.contains("default/tls"),
            "{told}"
        );
    }

    #[test]
    fn endpoints_with_the_same_labels_keep_their_own_port_names() {
        let mut files = Files::of(
            "\n\
                    - {name: default/a, labels: {app: web}, interface: v0, ips: [10.0.0.1], namedPorts: {http: 8080}}\n\
                    - {name: default/b, labels: {app: web}, interface: v1, ips: [10.0.0.2], namedPorts: {http: 9090}}\n\
                    - {name: default/c, labels: {app: web}, interface: v2, ips: [10.0.0.3], namedPorts: {http: 8080}}\n\
                    - {name: default/d, labels: {app: client}, interface: v3, ips: [10.0.0.4]}\n",
        );
        let policy = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: named}\nspec:\n  endpointSelector: \
                      {matchLabels: {app: client}}\n  egress:\n  - toEndpoints: [{matchLabels: {app: web}}]\n    toPorts: [{ports: \
                      [{port: http, protocol: TCP}]}]\n";
        files.write("a.yaml", policy);
        let loaded = files.load();
        let [a, b, c, _] = loaded.held.endpoints.as_slice() else {
            panic!("{:?}", loaded.held)
        };
        assert!(a != b && a == c, "{:?}", loaded.held);
        let allowed = |peer: u32, port| {
            let decision = loaded.policies[3].enforced.lookup(Direction::Egress, peer, 6, port);
            matches!(decision, seventh_policy::L4Decision::Allow)
        };
        assert!(allowed(*a, 8080) && !allowed(*a, 9090));
        assert!(allowed(*b, 9090) && !allowed(*b, 8080));
    }

    #[test]
    fn a_file_that_is_mended_counts_again() {
        let mut files = Files::new();
        files.write("a.yaml", &policy("one"));
        files.load();
        files.write("a.yaml", "kind: [");
        files.load();
        files.write("a.yaml", &policy("two"));
        let mended = files.load();
        assert_eq!((mended.documents, mended.rejections), (1, 0));
    }

    #[test]
    fn what_is_in_audit_is_told_apart_from_what_is_enforced() {
        let mut files = Files::new();
        let load = |files: &mut Files| {
            let mut loaded = files.load();
            assert_eq!(loaded.rejections, 0);
            loaded.policies.remove(0)
        };
        let enforces = |policy: &CompiledPolicy| policy.enforced(Direction::Ingress);
        files.write("a.yaml", &policy("one"));
        let plain = load(&mut files);
        assert!(enforces(&plain.enforced) && plain.audit.is_none());
        let annotated = policy("one").replace("{name: one}", "{name: one, annotations: {seventh.io/audit: \"true\"}}");
        files.write("a.yaml", &annotated);
        let audited = load(&mut files);
        assert!(!enforces(&audited.enforced) && enforces(audited.audit.as_ref().unwrap()));
        files.write("b.yaml", &policy("two"));
        let both = load(&mut files);
        assert!(enforces(&both.enforced) && enforces(both.audit.as_ref().unwrap()) && !both.is_audited);
        files.store.set_audit("default/web", true).unwrap();
        let whole = load(&mut files);
        assert!(!enforces(&whole.enforced) && enforces(whole.audit.as_ref().unwrap()) && whole.is_audited);
        files.store.set_audit("default/web", false).unwrap();
        assert_eq!(load(&mut files).enforced.policy_id(), both.enforced.policy_id());
    }
}
