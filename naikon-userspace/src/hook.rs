//! The hooks of an interface that a program of ours can stand at, and how it stands there.

use std::fmt;

/// A hook of an interface.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Point {
    /// Before the network stack, for what comes in.
    Xdp,
    /// At the stack's entrance, for what comes in.
    Ingress,
    /// At the stack's exit, for what goes out.
    Egress,
}

impl Point {
    /// Every hook.
    pub const ALL: [Point; 3] = [Point::Xdp, Point::Ingress, Point::Egress];

    /// The name in metrics, messages and pins.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Point::Xdp => "xdp",
            Point::Ingress => "ingress",
            Point::Egress => "egress",
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A hook of one interface, which its index names.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Spot {
    /// Of which interface.
    pub ifindex: u32,
    /// Which hook.
    pub point: Point,
}

/// How a program stands at a hook.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stance {
    /// XDP in the driver.
    Native,
    /// XDP in the stack, for any driver.
    Generic,
    /// XDP on the card.
    Offload,
    /// TC by a link, from kernel 6.6.
    Tcx,
    /// TC by a filter, on older kernels.
    Clsact,
}

impl Stance {
    /// The name in metrics and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Stance::Native => "native",
            Stance::Generic => "generic",
            Stance::Offload => "offload",
            Stance::Tcx => "tcx",
            Stance::Clsact => "clsact",
        }
    }
}
