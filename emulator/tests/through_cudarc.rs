//! cudarc's safe interface on the emulator, as a program finds it: through the loader.

mod emulated;

use std::path::Path;
use std::sync::Arc;

use cudarc::driver::sys::{
    self, CUdevice_attribute, CUevent_flags, CUfunction_attribute, CUgraphInstantiate_flags,
    CUresult, CUstreamCaptureMode, CUstreamCaptureStatus,
};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DeviceRepr, DriverError,
    LaunchConfig, PushKernelArg, result,
};
use cudarc::nvrtc::Ptx;
use emulated::{everywhere, with_settings};

const SAMPLE: &str = include_str!("kernels/sample.ptx");

fn sample(context: &Arc<CudaContext>) -> Arc<CudaModule> {
    context.load_module(Ptx::from_src(SAMPLE)).unwrap()
}

fn shape(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

/// Launches `axpy`.
fn axpy(stream: &CudaStream, f: &CudaFunction, a: f32, x: &CudaSlice<f32>, y: &mut CudaSlice<f32>) {
    let n = x.len();
    // SAFETY: the parameters are those of the kernel.
    unsafe {
        stream
            .launch_builder(f)
            .arg(&a)
            .arg(x)
            .arg(y)
            .arg(&n)
            .launch(shape(n.div_ceil(64) as u32, 64))
    }
    .unwrap();
}

#[test]
fn every_symbol_is_there() {
    with_settings(&[&[]], || {
        // SAFETY: the emulator's initialisers do nothing; no symbol is called through its type here.
        let library = unsafe { sys::culib() };
        for name in include_str!("symbols.txt").lines() {
            // SAFETY: as above.
            let symbol = unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) };
            assert!(symbol.is_ok(), "{name}");
        }
    });
}

#[test]
fn the_device_is_described() {
    with_settings(&[&[("CUDA_EMULATOR_CC", "9.0"), ("CUDA_EMULATOR_SMS", "132")]], || {
        assert_eq!(CudaContext::device_count().unwrap(), 1);
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.compute_capability().unwrap(), (9, 0));
        assert_eq!(context.name().unwrap(), "CUDA emulator (sm_90, CPU)");
        assert!(context.has_async_alloc());
        assert_eq!(context.total_mem().unwrap(), 16 << 30);
        let id = context.uuid().unwrap().bytes;
        assert_eq!(id[..8].iter().map(|&b| b as u8).collect::<Vec<_>>(), b"cuda-emu");
        for (attribute, value) in [
            (CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132),
            (CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 227 << 10),
            (CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, 1),
            (CUdevice_attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32),
        ] {
            assert_eq!(context.attribute(attribute).unwrap(), value);
        }
        assert!(CudaContext::new(1).is_err());
    });
}

#[test]
fn copies_go_round() {
    everywhere(|| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let data: Vec<f32> = (0..1000).map(|i| i as f32 * 0.5).collect();
        let a = stream.clone_htod(&data).unwrap();
        let b = a.clone();
        assert_eq!(stream.clone_dtoh(&b).unwrap(), data);
        assert_eq!(stream.clone_dtoh(&b.slice(10..13)).unwrap(), [5.0, 5.5, 6.0]);
        let mut zeros = stream.alloc_zeros::<u64>(100).unwrap();
        assert_eq!(stream.clone_dtoh(&zeros).unwrap(), [0; 100]);
        stream.memcpy_htod(&[7u64; 3], &mut zeros.slice_mut(50..53)).unwrap();
        assert_eq!(stream.clone_dtoh(&zeros).unwrap()[49..54], [0, 7, 7, 7, 0]);
        let empty = stream.null::<u8>().unwrap();
        assert_eq!(empty.len(), 0);
        let empty = stream.clone_htod(&[0u8; 0]).unwrap();
        assert_eq!(stream.clone_dtoh(&empty).unwrap(), [0u8; 0]);

        // SAFETY: written before it is read.
        let mut pinned = unsafe { context.alloc_pinned::<u32>(16) }.unwrap();
        pinned.as_mut_slice().unwrap().copy_from_slice(&[9; 16]);
        let c = stream.clone_htod(&pinned).unwrap();
        // On a single stream cudarc records no event for page-locked memory: the program waits.
        stream.synchronize().unwrap();
        pinned.as_mut_slice().unwrap().fill(1);
        assert_eq!(stream.clone_dtoh(&c).unwrap(), [9; 16]);
        stream.memcpy_dtoh(&c, &mut pinned).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(pinned.as_slice().unwrap(), [9; 16]);
        let (free, total) = context.mem_get_info().unwrap();
        assert!(free < total);
    });
}

#[test]
fn kernels_are_launched() {
    everywhere(|| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let module = sample(&context);
        let f = module.load_function("axpy").unwrap();
        let x = stream.clone_htod(&(0..1000).map(|i| i as f32).collect::<Vec<_>>()).unwrap();
        let mut y = stream.clone_htod(&[1.0f32; 1000]).unwrap();
        axpy(&stream, &f, 2.0, &x, &mut y);
        let expected: Vec<f32> = (0..1000).map(|i| 2.0 * i as f32 + 1.0).collect();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), expected);

        let f = module.load_function("block_sums").unwrap();
        let mut sums = stream.alloc_zeros::<f32>(4).unwrap();
        let n = 1000i32;
        // SAFETY: the parameters are those of the kernel.
        unsafe { stream.launch_builder(&f).arg(&x).arg(&mut sums).arg(&n).launch(shape(4, 256)) }
            .unwrap();
        let expected: Vec<f32> =
            (0..4).map(|b| (b * 256..((b + 1) * 256).min(1000)).sum::<usize>() as f32).collect();
        assert_eq!(stream.clone_dtoh(&sums).unwrap(), expected);

        let f = module.load_function("count").unwrap();
        let mut counter = stream.alloc_zeros::<u32>(1).unwrap();
        // SAFETY: as above.
        unsafe { stream.launch_builder(&f).arg(&mut counter).launch(shape(50, 96)) }.unwrap();
        assert_eq!(stream.clone_dtoh(&counter).unwrap(), [4800]);

        let f = module.load_function("scaled").unwrap();
        let mut v = stream.clone_htod(&[1.0f32, 2.0, 3.0]).unwrap();
        // SAFETY: as above.
        unsafe { stream.launch_builder(&f).arg(&mut v).launch(shape(1, 3)) }.unwrap();
        assert_eq!(stream.clone_dtoh(&v).unwrap(), [2.0, 4.0, 6.0]);
        let mut scale = module.get_global("scale", &stream).unwrap();
        assert_eq!(scale.len(), 4);
        stream.memcpy_htod(&10.0f32.to_le_bytes(), &mut scale).unwrap();
        // SAFETY: as above.
        unsafe { stream.launch_builder(&f).arg(&mut v).launch(shape(1, 3)) }.unwrap();
        assert_eq!(stream.clone_dtoh(&v).unwrap(), [20.0, 40.0, 60.0]);
    });
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Shape {
    rows: u64,
    kind: u8,
    strides: [i32; 3],
}

// SAFETY: the same layout as the kernel's structure.
unsafe impl DeviceRepr for Shape {}

#[test]
fn parameters_of_every_size() {
    everywhere(|| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let f = sample(&context).load_function("parameters").unwrap();
        let mut out = stream.alloc_zeros::<i64>(7).unwrap();
        let shape_value = Shape { rows: 1 << 40, kind: 200, strides: [1, 2, 3] };
        // SAFETY: the parameters are those of the kernel.
        unsafe {
            stream
                .launch_builder(&f)
                .arg(&-5i8)
                .arg(&-300i16)
                .arg(&shape_value)
                .arg(&-1.5f64)
                .arg(&255u8)
                .arg(&mut out)
                .launch(shape(1, 1))
        }
        .unwrap();
        assert_eq!(stream.clone_dtoh(&out).unwrap(), [-5, -300, 1 << 40, 200, 321, -1500, 255]);
    });
}

#[test]
fn dynamic_shared_memory_and_occupancy() {
    everywhere(|| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let f = sample(&context).load_function("reverse").unwrap();
        let n = 20_000usize;
        let input = stream.clone_htod(&(0..n as i32).collect::<Vec<_>>()).unwrap();
        let mut output = stream.alloc_zeros::<i32>(n).unwrap();
        let length = n as i32;
        let configuration = LaunchConfig { shared_mem_bytes: 4 * n as u32, ..shape(1, 128) };
        let mut launch = || {
            // SAFETY: the parameters are those of the kernel.
            unsafe {
                stream
                    .launch_builder(&f)
                    .arg(&input)
                    .arg(&mut output)
                    .arg(&length)
                    .launch(configuration)
            }
        };
        assert_eq!(launch().unwrap_err().0, CUresult::CUDA_ERROR_INVALID_VALUE);
        f.set_attribute(
            CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            4 * n as i32,
        )
        .unwrap();
        launch().unwrap();
        assert_eq!(stream.clone_dtoh(&output).unwrap(), (0..n as i32).rev().collect::<Vec<_>>());
        assert_eq!(f.occupancy_max_active_blocks_per_multiprocessor(128, 4 * n, None).unwrap(), 2);
        assert_eq!(f.shared_size_bytes().unwrap(), 0);
        assert_eq!(f.ptx_version().unwrap(), 80);
        assert!(f.num_regs().unwrap() > 0);
        let (grid, block) = f.occupancy_max_potential_block_size(none, 0, 0, None).unwrap();
        assert!(block >= 32 && grid >= 108, "{grid} × {block}");
    });
}

extern "C" fn none(_block: i32) -> usize {
    0
}

#[test]
fn streams_events_and_times() {
    everywhere(|| {
        let context = CudaContext::new(0).unwrap();
        let module = sample(&context);
        let f = module.load_function("axpy").unwrap();
        let one = context.new_stream().unwrap();
        let two = one.fork().unwrap();
        let x = one.clone_htod(&[1.0f32; 256]).unwrap();
        let mut y = one.clone_htod(&[0.0f32; 256]).unwrap();
        // cudarc orders the two streams through the events of the slices.
        for i in 0..10 {
            axpy(if i % 2 == 0 { &one } else { &two }, &f, 1.0, &x, &mut y);
        }
        assert_eq!(two.clone_dtoh(&y).unwrap(), [10.0; 256]);

        let start = one.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        axpy(&one, &f, 1.0, &x, &mut y);
        let end = one.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        let milliseconds = start.elapsed_ms(&end).unwrap();
        assert!(milliseconds > 0.0 && milliseconds < 60_000.0);
        assert!(end.is_complete());
        one.join(&two).unwrap();
        one.synchronize().unwrap();
        context.synchronize().unwrap();
        let priority = context.new_stream_with_priority(-1).unwrap();
        priority.synchronize().unwrap();
        let own = context.per_thread_stream();
        assert_eq!(own.clone_dtoh(&x).unwrap(), [1.0; 256]);
    });
}

#[test]
fn graphs_are_captured_and_replayed() {
    everywhere(|| {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: one stream only.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let f = sample(&context).load_function("axpy").unwrap();
        let mut x = stream.clone_htod(&[1.0f32; 100]).unwrap();
        let mut y = stream.alloc_zeros::<f32>(100).unwrap();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        assert_eq!(
            stream.capture_status().unwrap(),
            CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE
        );
        for _ in 0..3 {
            axpy(&stream, &f, 2.0, &x, &mut y);
        }
        let graph = stream
            .end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
            .unwrap()
            .unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [0.0; 100]);
        graph.upload().unwrap();
        graph.launch().unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [12.0; 100]);
        stream.memcpy_htod(&[10.0f32; 100], &mut x).unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [72.0; 100]);

        // What a capture forbids: waiting, and leaving the stream order.
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let error = stream.synchronize().unwrap_err().0;
        assert_eq!(error, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        let ended = stream.end_capture(CUgraphInstantiate_flags(0));
        assert_eq!(ended.err().unwrap().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        stream.synchronize().unwrap();
    });
}

#[test]
fn errors_are_the_drivers() {
    everywhere(|| {
        let context = CudaContext::new(0).unwrap();
        let code = |result: Result<Arc<CudaModule>, DriverError>| result.err().unwrap().0;
        assert_eq!(
            code(context.load_module(Ptx::from_src("nonsense"))),
            CUresult::CUDA_ERROR_INVALID_PTX
        );
        assert_eq!(
            code(context.load_module(Ptx::from_binary(b"\x7fELF\x02\x01\x01\0".to_vec()))),
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        );
        let newer = SAMPLE.replace(".version 9.0", ".version 12.7");
        assert_eq!(
            code(context.load_module(Ptx::from_src(newer))),
            CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        );
        let other = SAMPLE.replace(".target sm_80", ".target sm_100");
        assert_eq!(
            code(context.load_module(Ptx::from_src(other))),
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        );
        assert_eq!(
            code(context.load_module(Ptx::from_file(Path::new("/nowhere.ptx")))),
            CUresult::CUDA_ERROR_FILE_NOT_FOUND
        );
        let module = sample(&context);
        let missing = module.load_function("missing").err().unwrap();
        assert_eq!(missing.0, CUresult::CUDA_ERROR_NOT_FOUND);
        assert_eq!(missing.error_name().unwrap().to_str().unwrap(), "CUDA_ERROR_NOT_FOUND");
        assert_eq!(missing.error_string().unwrap().to_str().unwrap(), "named symbol not found");
        let stream = context.default_stream();
        // SAFETY: never written or read.
        let huge = unsafe { stream.alloc::<u8>(1 << 45) };
        assert_eq!(huge.err().unwrap().0, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        // What is missing says so, and does not panic.
        // SAFETY: the function ignores its arguments.
        let managed = unsafe { stream.context().alloc_unified::<f32>(10, true) };
        assert!(managed.is_err());
    });
}

#[test]
fn a_fault_is_reported_and_the_primary_context_recovers() {
    everywhere(|| {
        {
            let context = CudaContext::new(0).unwrap();
            let stream = context.new_stream().unwrap();
            let f = sample(&context).load_function("one_too_many").unwrap();
            let mut out = stream.alloc_zeros::<i32>(10).unwrap();
            let n = 9i32;
            // SAFETY: the parameters are those of the kernel, and the size is right this time.
            unsafe { stream.launch_builder(&f).arg(&mut out).arg(&n).launch(shape(1, 32)) }
                .unwrap();
            assert_eq!(stream.clone_dtoh(&out).unwrap(), (0..10).collect::<Vec<_>>());
            let n = 10i32;
            // SAFETY: the kernel writes one element too many: that is the test.
            let launched =
                unsafe { stream.launch_builder(&f).arg(&mut out).arg(&n).launch(shape(1, 32)) };
            // Run at once, the fault is known to the calls that cudarc makes after the launch.
            if std::env::var("CUDA_EMULATOR_ASYNC").as_deref() == Ok("late") {
                launched.unwrap();
            }
            let error = stream.synchronize().unwrap_err().0;
            assert_eq!(error, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
            let again = stream.clone_htod(&[1u8]).err().unwrap().0;
            assert_eq!(again, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        }
        // All of the broken context's owners are gone: the next one is new.
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let a = stream.clone_htod(&[1u8, 2, 3]).unwrap();
        assert_eq!(stream.clone_dtoh(&a).unwrap(), [1, 2, 3]);
    });
}

#[test]
fn many_threads() {
    everywhere(|| {
        let context = CudaContext::new(0).unwrap();
        let module = sample(&context);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (context, module) = (&context, &module);
                scope.spawn(move || {
                    context.bind_to_thread().unwrap();
                    let stream = context.new_stream().unwrap();
                    let f = module.load_function("axpy").unwrap();
                    for round in 0..10 {
                        let x = stream.clone_htod(&[worker as f32; 64]).unwrap();
                        let mut y = stream.clone_htod(&[round as f32; 64]).unwrap();
                        axpy(&stream, &f, 2.0, &x, &mut y);
                        let expected = 2.0 * worker as f32 + round as f32;
                        assert_eq!(stream.clone_dtoh(&y).unwrap(), [expected; 64]);
                    }
                });
            }
        });
    });
}

#[test]
fn host_functions_and_raw_calls() {
    everywhere(|| {
        use std::sync::mpsc::{Receiver, channel};
        unsafe extern "C" fn receive(data: *mut std::ffi::c_void) {
            // SAFETY: the test hands over a boxed receiver, once.
            let receiver = unsafe { Box::from_raw(data.cast::<Receiver<()>>()) };
            receiver.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
        }
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let event = context.new_event(None).unwrap();
        assert_eq!(event.try_is_complete(), Ok(true));
        let (release, receiver) = channel();
        let receiver = Box::into_raw(Box::new(receiver));
        // SAFETY: the function takes the box back.
        unsafe {
            result::stream::launch_host_function(stream.cu_stream(), receive, receiver.cast())
        }
        .unwrap();
        event.record(&stream).unwrap();
        // The function waits for this thread: the event cannot be complete.
        assert_eq!(event.try_is_complete(), Ok(false));
        assert!(!event.is_complete());
        release.send(()).unwrap();
        event.synchronize().unwrap();
        assert_eq!(event.try_is_complete(), Ok(true));
    });
}
