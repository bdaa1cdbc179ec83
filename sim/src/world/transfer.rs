//! What is worth noting on the way of one member's state to another.

use crate::marks::Marks;
use detcd::env::recorder::Transfer;

/// Takes in a step; `receives` is whether a state is on its way to the member.
pub fn note(step: Transfer, receives: &mut bool, marks: &mut Marks) {
    match step {
        Transfer::Offered if *receives => marks.reach("second snapshot during an install"),
        Transfer::Offered => {}
        Transfer::Begun => *receives = true,
        Transfer::Resumed => marks.reach("install resumed after a break"),
        Transfer::Ended => *receives = false,
    }
}
