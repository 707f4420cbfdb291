//! Copies and fills of every direction, synchronous and in stream order.
//!
//! Host memory that is not page-locked is read when a copy to the device is enqueued, and has been
//! written when a copy from the device returns, as the driver's staging does. Page-locked memory
//! is accessed when the copy runs.

use std::ffi::c_void;
use std::sync::Arc;

use super::error::{CUresult, Result};
use super::ffi::{In, api, current_call, say};
use super::queue::{Action, Copy2D, Fill, Place, Until};
use super::state::{Driver, Handle, State, driver};

/// When a copy or fill must have run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Before the call returns, on the legacy stream.
    Now,
    /// In the order of a stream.
    Stream(Handle),
}

/// A rectangle: bytes in a row, rows, and the distance of rows at both ends.
#[derive(Clone, Copy)]
struct Shape {
    width: usize,
    rows: usize,
    source_pitch: usize,
    destination_pitch: usize,
}

impl Shape {
    /// One row.
    fn line(bytes: usize) -> Shape {
        Shape { width: bytes, rows: 1, source_pitch: bytes, destination_pitch: bytes }
    }

    /// Bytes from the first to the last at a pitch.
    fn span(&self, pitch: usize) -> Result<usize> {
        if self.width == 0 || self.rows == 0 {
            return Ok(0);
        }
        let rows = (self.rows - 1).checked_mul(pitch).ok_or(CUresult::INVALID_VALUE)?;
        rows.checked_add(self.width).ok_or(CUresult::INVALID_VALUE)
    }
}

impl Driver {
    /// Whether `bytes` bytes of device memory at `address` are one allocation's; says if not.
    fn check_device_range(&self, address: u64, bytes: usize) -> Result {
        if bytes == 0 {
            return Ok(());
        }
        let end = address.checked_add(bytes as u64).ok_or(CUresult::INVALID_VALUE)?;
        match self.memory.range_of(address) {
            Some((base, size)) if end <= base + size as u64 => Ok(()),
            Some((base, size)) => {
                say(&format!(
                    "{}: {bytes} bytes at {address:#x} leave their allocation ({size} bytes at {base:#x})",
                    current_call()
                ));
                Err(CUresult::INVALID_VALUE)
            }
            None => {
                say(&format!("{}: {address:#x} is no device memory", current_call()));
                Err(CUresult::INVALID_VALUE)
            }
        }
    }

    /// What a pointer that may be of either kind points to.
    fn place(&self, address: u64) -> Place {
        match self.memory.range_of(address) {
            Some(_) => Place::Device(address),
            None => Place::Host(address as usize),
        }
    }
}

/// The state and the stream on which a copy goes, with what a capture allows checked.
fn enter(driver: &Driver, mode: Mode) -> Result<(std::sync::MutexGuard<'_, State>, Handle)> {
    let mut state = driver.lock();
    match mode {
        Mode::Now => {
            let context = state.current()?;
            state.error_of(context)?;
            state.unsafe_call()?;
            let stream = state.stream_for_work(0)?;
            Ok((state, stream))
        }
        Mode::Stream(raw) => {
            let stream = state.stream_for_work(raw)?;
            Ok((state, stream))
        }
    }
}

/// Copies a rectangle.
fn copy(source: Place, destination: Place, shape: Shape, mode: Mode) -> Result {
    let driver = driver()?;
    let (state, stream) = enter(driver, mode)?;
    let source_bytes = shape.span(shape.source_pitch)?;
    let destination_bytes = shape.span(shape.destination_pitch)?;
    let now = mode == Mode::Now;
    for (place, bytes) in [(&source, source_bytes), (&destination, destination_bytes)] {
        match *place {
            Place::Device(address) => driver.check_device_range(address, bytes)?,
            Place::Host(0) if bytes > 0 => return Err(CUresult::INVALID_VALUE),
            _ => {}
        }
    }
    let capturing = state.streams[&stream].capture.is_some();
    let pageable = |place: &Place, bytes: usize| match *place {
        Place::Host(address) => !capturing && bytes > 0 && !state.is_pinned(address, bytes),
        _ => false,
    };
    let from_pageable = pageable(&source, source_bytes) && matches!(destination, Place::Device(_));
    let to_pageable = pageable(&destination, destination_bytes);
    let within_device = matches!((&source, &destination), (Place::Device(_), Place::Device(_)));
    // What the driver's reference says of each direction: from pageable memory the host waits only
    // until the bytes are staged, to pageable memory until they have landed, within the device not
    // at all; where both ends are ready for the copy engine the synchronous call waits.
    let waits = !from_pageable && !within_device && (now || to_pageable);
    let (mut state, mut source) = (state, source);
    if from_pageable && let Place::Host(address) = source {
        if now {
            // The synchronous call waits for what is ahead of it, then stages.
            drop(state);
            wait(driver, stream)?;
            state = enter(driver, mode)?.0;
        }
        source = Place::Staged(stage(address, source_bytes, shape));
    }
    let action = Action::Copy(Arc::new(Copy2D {
        source,
        source_pitch: shape.source_pitch,
        destination,
        destination_pitch: shape.destination_pitch,
        width: shape.width,
        rows: shape.rows,
    }));
    driver.submit(state, stream, action)?;
    if waits {
        wait(driver, stream)?;
    }
    Ok(())
}

/// The bytes of a rectangle of host memory as they are now; what lies between rows is left out.
fn stage(address: usize, bytes: usize, shape: Shape) -> Arc<[u8]> {
    let mut staged = vec![0; bytes];
    for row in 0..shape.rows {
        let from = row * shape.source_pitch;
        // SAFETY: the program promised the bytes of each row readable for the duration of the call.
        let bytes =
            unsafe { std::slice::from_raw_parts((address + from) as *const u8, shape.width) };
        staged[from..from + shape.width].copy_from_slice(bytes);
    }
    staged.into()
}

/// Waits for all that is in a stream, and counts that as a synchronisation of the host.
fn wait(driver: &Driver, stream: Handle) -> Result {
    let point = driver.lock().end_of(stream);
    driver.recorder.host_sync();
    driver.run_until(Until::Point(point))
}

/// Fills a rectangle of elements of `size` bytes.
fn fill(
    address: u64,
    pitch: usize,
    value: u32,
    size: usize,
    count: usize,
    rows: usize,
    mode: Mode,
) -> Result {
    let driver = driver()?;
    let (state, stream) = enter(driver, mode)?;
    let width = count.checked_mul(size).ok_or(CUresult::INVALID_VALUE)?;
    let shape = Shape { width, rows, source_pitch: pitch, destination_pitch: pitch };
    if !address.is_multiple_of(size as u64) || !pitch.is_multiple_of(size) {
        return Err(CUresult::INVALID_VALUE);
    }
    driver.check_device_range(address, shape.span(pitch)?)?;
    // A fill of device memory does not make the host wait, whichever way it is called.
    driver.submit(state, stream, Action::Fill(Fill { address, pitch, value, size, count, rows }))
}

/// Fills one row.
fn fill_line(address: u64, value: u32, size: usize, count: usize, mode: Mode) -> Result {
    fill(address, count.saturating_mul(size), value, size, count, 1, mode)
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memcpy2D {
    source_x: usize,
    source_y: usize,
    source_type: u32,
    source_host: usize,
    source_device: u64,
    source_array: usize,
    source_pitch: usize,
    destination_x: usize,
    destination_y: usize,
    destination_type: u32,
    destination_host: usize,
    destination_device: u64,
    destination_array: usize,
    destination_pitch: usize,
    width: usize,
    rows: usize,
}

/// Copies a rectangle as described.
fn copy_2d(description: In<Memcpy2D>, mode: Mode) -> Result {
    let d = description.get()?;
    let driver = driver()?;
    let end =
        |kind: u32, host: usize, device: u64, x: usize, y: usize, pitch: usize| -> Result<Place> {
            let offset = y
                .checked_mul(pitch)
                .and_then(|o| o.checked_add(x))
                .ok_or(CUresult::INVALID_VALUE)?;
            match kind {
                1 => Ok(Place::Host(host + offset)),
                2 => Ok(Place::Device(device + offset as u64)),
                4 => Ok(driver.place(device + offset as u64)),
                3 => Err(super::ffi::unsupported("cuMemcpy2D of arrays")),
                _ => Err(CUresult::INVALID_VALUE),
            }
        };
    let pitch = |pitch: usize| if pitch == 0 { d.width } else { pitch };
    let (source_pitch, destination_pitch) = (pitch(d.source_pitch), pitch(d.destination_pitch));
    if d.width > source_pitch || d.width > destination_pitch {
        return Err(CUresult::INVALID_VALUE);
    }
    let source =
        end(d.source_type, d.source_host, d.source_device, d.source_x, d.source_y, source_pitch)?;
    let destination = end(
        d.destination_type,
        d.destination_host,
        d.destination_device,
        d.destination_x,
        d.destination_y,
        destination_pitch,
    )?;
    copy(
        source,
        destination,
        Shape { width: d.width, rows: d.rows, source_pitch, destination_pitch },
        mode,
    )
}

/// Copies between pointers of either kind.
fn copy_any(destination: u64, source: u64, bytes: usize, mode: Mode) -> Result {
    let driver = driver()?;
    copy(driver.place(source), driver.place(destination), Shape::line(bytes), mode)
}

/// Copies within the device.
fn copy_device(destination: u64, source: u64, bytes: usize, mode: Mode) -> Result {
    copy(Place::Device(source), Place::Device(destination), Shape::line(bytes), mode)
}

/// Host to device.
fn copy_in(destination: u64, source: *const c_void, bytes: usize, mode: Mode) -> Result {
    copy(Place::Host(source as usize), Place::Device(destination), Shape::line(bytes), mode)
}

/// Device to host.
fn copy_out(destination: *mut c_void, source: u64, bytes: usize, mode: Mode) -> Result {
    copy(Place::Device(source), Place::Host(destination as usize), Shape::line(bytes), mode)
}

api! {
    /// Copies between pointers of either kind.
    fn cuMemcpy(destination: u64, source: u64, bytes: usize) { copy_any(destination, source, bytes, Mode::Now) }

    /// Copies between pointers of either kind, in stream order.
    fn cuMemcpyAsync(destination: u64, source: u64, bytes: usize, stream: Handle) {
        copy_any(destination, source, bytes, Mode::Stream(stream))
    }

    /// Copies between contexts, which share one memory here.
    fn cuMemcpyPeer(destination: u64, _to: Handle, source: u64, _from: Handle, bytes: usize) {
        copy_device(destination, source, bytes, Mode::Now)
    }

    /// Copies between contexts, in stream order.
    fn cuMemcpyPeerAsync(destination: u64, _to: Handle, source: u64, _from: Handle, bytes: usize, stream: Handle) {
        copy_device(destination, source, bytes, Mode::Stream(stream))
    }

    /// Copies to the device.
    fn cuMemcpyHtoD_v2(destination: u64, source: *const c_void, bytes: usize) {
        copy_in(destination, source, bytes, Mode::Now)
    }

    /// Copies to the device, in stream order.
    fn cuMemcpyHtoDAsync_v2(destination: u64, source: *const c_void, bytes: usize, stream: Handle) {
        copy_in(destination, source, bytes, Mode::Stream(stream))
    }

    /// Copies to the host.
    fn cuMemcpyDtoH_v2(destination: *mut c_void, source: u64, bytes: usize) {
        copy_out(destination, source, bytes, Mode::Now)
    }

    /// Copies to the host, in stream order.
    fn cuMemcpyDtoHAsync_v2(destination: *mut c_void, source: u64, bytes: usize, stream: Handle) {
        copy_out(destination, source, bytes, Mode::Stream(stream))
    }

    /// Copies within the device. The host does not wait for it.
    fn cuMemcpyDtoD_v2(destination: u64, source: u64, bytes: usize) {
        copy_device(destination, source, bytes, Mode::Now)
    }

    /// Copies within the device, in stream order.
    fn cuMemcpyDtoDAsync_v2(destination: u64, source: u64, bytes: usize, stream: Handle) {
        copy_device(destination, source, bytes, Mode::Stream(stream))
    }

    /// Copies a rectangle.
    fn cuMemcpy2D_v2(description: In<Memcpy2D>) { copy_2d(description, Mode::Now) }

    /// Copies a rectangle.
    fn cuMemcpy2DUnaligned_v2(description: In<Memcpy2D>) { copy_2d(description, Mode::Now) }

    /// Copies a rectangle, in stream order.
    fn cuMemcpy2DAsync_v2(description: In<Memcpy2D>, stream: Handle) { copy_2d(description, Mode::Stream(stream)) }

    /// Fills bytes.
    fn cuMemsetD8_v2(address: u64, value: u8, count: usize) {
        fill_line(address, value.into(), 1, count, Mode::Now)
    }

    /// Fills 16-bit elements.
    fn cuMemsetD16_v2(address: u64, value: u16, count: usize) {
        fill_line(address, value.into(), 2, count, Mode::Now)
    }

    /// Fills 32-bit elements.
    fn cuMemsetD32_v2(address: u64, value: u32, count: usize) { fill_line(address, value, 4, count, Mode::Now) }

    /// Fills bytes, in stream order.
    fn cuMemsetD8Async(address: u64, value: u8, count: usize, stream: Handle) {
        fill_line(address, value.into(), 1, count, Mode::Stream(stream))
    }

    /// Fills 16-bit elements, in stream order.
    fn cuMemsetD16Async(address: u64, value: u16, count: usize, stream: Handle) {
        fill_line(address, value.into(), 2, count, Mode::Stream(stream))
    }

    /// Fills 32-bit elements, in stream order.
    fn cuMemsetD32Async(address: u64, value: u32, count: usize, stream: Handle) {
        fill_line(address, value, 4, count, Mode::Stream(stream))
    }

    /// Fills a rectangle of bytes.
    fn cuMemsetD2D8_v2(address: u64, pitch: usize, value: u8, width: usize, rows: usize) {
        fill(address, pitch, value.into(), 1, width, rows, Mode::Now)
    }

    /// Fills a rectangle of 16-bit elements.
    fn cuMemsetD2D16_v2(address: u64, pitch: usize, value: u16, width: usize, rows: usize) {
        fill(address, pitch, value.into(), 2, width, rows, Mode::Now)
    }

    /// Fills a rectangle of 32-bit elements.
    fn cuMemsetD2D32_v2(address: u64, pitch: usize, value: u32, width: usize, rows: usize) {
        fill(address, pitch, value, 4, width, rows, Mode::Now)
    }

    /// Fills a rectangle of bytes, in stream order.
    fn cuMemsetD2D8Async(address: u64, pitch: usize, value: u8, width: usize, rows: usize, stream: Handle) {
        fill(address, pitch, value.into(), 1, width, rows, Mode::Stream(stream))
    }

    /// Fills a rectangle of 16-bit elements, in stream order.
    fn cuMemsetD2D16Async(address: u64, pitch: usize, value: u16, width: usize, rows: usize, stream: Handle) {
        fill(address, pitch, value.into(), 2, width, rows, Mode::Stream(stream))
    }

    /// Fills a rectangle of 32-bit elements, in stream order.
    fn cuMemsetD2D32Async(address: u64, pitch: usize, value: u32, width: usize, rows: usize, stream: Handle) {
        fill(address, pitch, value, 4, width, rows, Mode::Stream(stream))
    }
}
