//! Keeps what a process has in its memory to itself.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Has the kernel write no image of this process's memory, in which passwords and tokens would stand. To be called before
/// any of them is read.
///
/// The limit alone is not enough: a program that the kernel hands images to (`core_pattern` with a pipe) is asked whatever
/// the limit says. So the process is marked besides as one of which none may be made, and then another process of the
/// same user cannot look into it through `/proc` or a debugger either; root can.
pub fn forbid_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Lowering a limit and giving up a right fail nowhere that the service runs; it does its work without, too.
    if let Err(error) = setrlimit(Resource::Core, none) {
        log::warn!(error:% = error; "images of this process's memory could not be forbidden");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        log::warn!(error:% = error; "this process's memory could not be kept from others of the same user");
    }
}
