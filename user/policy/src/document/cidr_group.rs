//! CiliumCIDRGroup: prefixes under a name.

use ipnet::IpNet;

use super::peers::prefix;
use super::{Body, Reader};
use crate::fields::Object;

/// Prefixes that policies name together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidrGroup {
    /// The prefixes.
    pub prefixes: Vec<IpNet>,
}

pub(super) fn read(object: &mut Object<'_>, _: &Reader) -> Option<Body> {
    let mut spec = object.required("spec")?.object()?;
    let prefixes = spec.required("externalCIDRs").and_then(|f| f.list_of(prefix));
    spec.finish();
    Some(Body::CidrGroup(CidrGroup { prefixes: prefixes? }))
}
