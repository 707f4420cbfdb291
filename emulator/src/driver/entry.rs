//! Entry points by name, for programs that ask the driver instead of the loader.

use std::ffi::c_void;

use super::error::{CUresult, Result};
use super::ffi::{Out, Symbol, Text, api};
use super::{
    allocation, capture, context, copy, device, error, event, function, graph, launch, module,
    stream, stubs,
};

/// Every function that does something.
fn working() -> impl Iterator<Item = &'static Symbol> {
    let tables = [
        allocation::TABLE,
        capture::TABLE,
        context::TABLE,
        copy::TABLE,
        device::TABLE,
        error::TABLE,
        event::TABLE,
        function::TABLE,
        graph::TABLE,
        launch::TABLE,
        module::TABLE,
        stream::TABLE,
        TABLE,
    ];
    tables.into_iter().flatten()
}

/// The function that a program means by `name`: names come without the version suffix, and the
/// newest version that does something is the answer.
fn find(name: &str) -> Option<*const c_void> {
    let named = |wanted: &str| working().find(|s| s.0 == wanted).map(|s| s.1);
    let suffixed =
        ["_v4", "_v3", "_v2", ""].iter().find_map(|suffix| named(&format!("{name}{suffix}")));
    suffixed.or_else(|| {
        stubs::TABLE
            .iter()
            .find(|s| s.0 == name || s.0.strip_prefix(name).is_some_and(|r| r.starts_with("_v")))
            .map(|s| s.1)
    })
}

/// Looks a function up.
fn look_up(name: Text, function: Out<*const c_void>) -> Result {
    match find(&name.get()?) {
        Some(address) => function.set(address),
        None => {
            function.set(std::ptr::null())?;
            Err(CUresult::NOT_FOUND)
        }
    }
}

api! {
    /// The address of a function by name.
    fn cuGetProcAddress(name: Text, function: Out<*const c_void>, _version: i32, _flags: u64) { look_up(name, function) }

    /// The address of a function by name, and whether there is one.
    fn cuGetProcAddress_v2(name: Text, function: Out<*const c_void>, _version: i32, _flags: u64, found: Out<u32>) {
        let outcome = look_up(name, function);
        found.set_if(u32::from(outcome.is_err()));
        outcome
    }
}
