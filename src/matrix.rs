//! Room: views. Borrowed matrices, vectors and scalars over host slices or CUDA buffers.

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, DevicePtr, DevicePtrMut};

use crate::{Error, Result};

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Host {}
    impl Sealed for super::Cuda {}
}

/// Where data lives. Views of one device are only accepted by engines of the same device.
pub trait Device: sealed::Sealed + Copy + std::fmt::Debug + 'static {
    /// A shared view of consecutive elements.
    type View<'a, T: 'static>: Copy;
    /// A unique view of consecutive elements.
    type ViewMut<'a, T: 'static>;

    /// How many elements the view has.
    fn len<T: 'static>(view: Self::View<'_, T>) -> usize;
    /// How many elements the view has.
    fn len_mut<T: 'static>(view: &Self::ViewMut<'_, T>) -> usize;
}

/// The machine's own memory: slices and vectors.
#[derive(Clone, Copy, Debug)]
pub struct Host;

/// Memory of a CUDA device: what `cudarc` allocates.
#[derive(Clone, Copy, Debug)]
pub struct Cuda;

impl Device for Host {
    type View<'a, T: 'static> = &'a [T];
    type ViewMut<'a, T: 'static> = &'a mut [T];

    fn len<T: 'static>(view: &[T]) -> usize {
        view.len()
    }
    fn len_mut<T: 'static>(view: &&mut [T]) -> usize {
        view.len()
    }
}

impl Device for Cuda {
    type View<'a, T: 'static> = &'a dyn DevicePtr<T>;
    type ViewMut<'a, T: 'static> = &'a mut dyn DevicePtrMut<T>;

    fn len<T: 'static>(view: &dyn DevicePtr<T>) -> usize {
        view.len()
    }
    fn len_mut<T: 'static>(view: &&mut dyn DevicePtrMut<T>) -> usize {
        view.len()
    }
}

/// Something that can be viewed: `[T]`, `Vec<T>`, `[T; N]`, [`CudaSlice`], [`CudaView`],
/// [`CudaViewMut`].
pub trait Storage {
    /// Where the data lives.
    type Device: Device;
    /// What it consists of.
    type Element: 'static;
    /// A view of all elements.
    fn view(&self) -> <Self::Device as Device>::View<'_, Self::Element>;
}

/// A [`Storage`] that can be written.
pub trait StorageMut: Storage {
    /// A unique view of all elements.
    fn view_mut(&mut self) -> <Self::Device as Device>::ViewMut<'_, Self::Element>;
}

macro_rules! storage {
    ($device:ty: $($type:ty),*) => {$(
        impl<T: 'static> Storage for $type {
            type Device = $device;
            type Element = T;
            fn view(&self) -> <$device as Device>::View<'_, T> {
                self
            }
        }
    )*};
}

macro_rules! storage_mut {
    ($device:ty: $($type:ty),*) => {$(
        impl<T: 'static> StorageMut for $type {
            fn view_mut(&mut self) -> <$device as Device>::ViewMut<'_, T> {
                self
            }
        }
    )*};
}

storage!(Host: [T], Vec<T>);
storage_mut!(Host: [T], Vec<T>);
storage!(Cuda: CudaSlice<T>, CudaView<'_, T>, CudaViewMut<'_, T>);
storage_mut!(Cuda: CudaSlice<T>, CudaViewMut<'_, T>);

impl<T: 'static, const N: usize> Storage for [T; N] {
    type Device = Host;
    type Element = T;
    fn view(&self) -> &[T] {
        self
    }
}

impl<T: 'static, const N: usize> StorageMut for [T; N] {
    fn view_mut(&mut self) -> &mut [T] {
        self
    }
}

/// A borrowed row-major matrix: `rows` embeddings of `cols` elements, `row_stride` elements from
/// one row's start to the next.
pub struct Matrix<'a, D: Device, T: 'static> {
    pub(crate) data: D::View<'a, T>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
}

impl<D: Device, T: 'static> Clone for Matrix<'_, D, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Device, T: 'static> Copy for Matrix<'_, D, T> {}

impl<'a, D: Device, T: 'static> Matrix<'a, D, T> {
    /// Views `storage` as `rows` × `cols`, rows back to back.
    ///
    /// # Errors
    /// If the storage does not hold exactly `rows · cols` elements, or either is 0.
    pub fn new<S>(storage: &'a S, rows: usize, cols: usize) -> Result<Self>
    where
        S: Storage<Device = D, Element = T> + ?Sized,
    {
        let data = storage.view();
        let len = D::len(data);
        check_shape("matrix", rows, cols)?;
        if rows.checked_mul(cols) != Some(len) {
            return Err(Error::argument(
                "matrix",
                format!("a buffer of {len} elements"),
                format!("rows × cols = {rows} × {cols} elements"),
            ));
        }
        Ok(Self { data, rows, cols, row_stride: cols })
    }

    /// Views `storage` as `rows` × `cols`, each row starting `row_stride` elements after the one
    /// before it. What lies between rows is never read.
    ///
    /// # Errors
    /// If `rows` or `cols` is 0, `row_stride < cols`, or the storage ends before the last row does.
    pub fn with_stride<S>(
        storage: &'a S,
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self>
    where
        S: Storage<Device = D, Element = T> + ?Sized,
    {
        let data = storage.view();
        check_strided("matrix", D::len(data), rows, cols, row_stride)?;
        Ok(Self { data, rows, cols, row_stride })
    }

    /// The number of embeddings.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The dimension of an embedding.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row's start to the next.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }
}

/// A borrowed row-major matrix to be written; see [`Matrix`].
pub struct MatrixMut<'a, D: Device, T: 'static> {
    pub(crate) data: D::ViewMut<'a, T>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
}

impl<'a, D: Device, T: 'static> MatrixMut<'a, D, T> {
    /// Views `storage` as `rows` × `cols`, rows back to back. The storage may be longer; what lies
    /// beyond is not written.
    ///
    /// # Errors
    /// If `rows` or `cols` is 0, or the storage holds fewer than `rows · cols` elements.
    pub fn new<S>(storage: &'a mut S, rows: usize, cols: usize) -> Result<Self>
    where
        S: StorageMut<Device = D, Element = T> + ?Sized,
    {
        Self::with_stride(storage, rows, cols, cols)
    }

    /// Views `storage` as `rows` × `cols`, each row starting `row_stride` elements after the one
    /// before it. What lies between rows is not written.
    ///
    /// # Errors
    /// As [`Matrix::with_stride`].
    pub fn with_stride<S>(
        storage: &'a mut S,
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self>
    where
        S: StorageMut<Device = D, Element = T> + ?Sized,
    {
        let data = storage.view_mut();
        check_strided("output matrix", D::len_mut(&data), rows, cols, row_stride)?;
        Ok(Self { data, rows, cols, row_stride })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row's start to the next.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }
}

macro_rules! debug_shape {
    ($name:ident) => {
        impl<D: Device, T> std::fmt::Debug for $name<'_, D, T> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("rows", &self.rows)
                    .field("cols", &self.cols)
                    .field("row_stride", &self.row_stride)
                    .finish_non_exhaustive()
            }
        }
    };
}

debug_shape!(Matrix);
debug_shape!(MatrixMut);

fn check_shape(argument: &'static str, rows: usize, cols: usize) -> Result<()> {
    if rows == 0 || cols == 0 {
        return Err(Error::argument(
            argument,
            format!("rows × cols = {rows} × {cols}"),
            "at least one row and one column",
        ));
    }
    Ok(())
}

fn check_strided(
    argument: &'static str,
    len: usize,
    rows: usize,
    cols: usize,
    row_stride: usize,
) -> Result<()> {
    check_shape(argument, rows, cols)?;
    if row_stride < cols {
        return Err(Error::argument(
            argument,
            format!("a row stride of {row_stride}"),
            format!("at least the {cols} columns of a row"),
        ));
    }
    let needed = (rows - 1).checked_mul(row_stride).and_then(|start| start.checked_add(cols));
    if needed.is_none_or(|needed| needed > len) {
        return Err(Error::argument(
            argument,
            format!("a buffer of {len} elements"),
            format!("{rows} rows of {cols} elements, {row_stride} apart"),
        ));
    }
    Ok(())
}

/// One number: known to the host, or standing on the device (a learnable temperature, an upstream
/// gradient). A device number is read in stream order, without synchronising.
pub enum Scalar<'a, D: Device> {
    /// A plain number.
    Value(f32),
    /// The first and only element of a device buffer.
    Device(D::View<'a, f32>),
}

impl<D: Device> Clone for Scalar<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Device> Copy for Scalar<'_, D> {}

impl<D: Device> Scalar<'_, D> {
    /// A device scalar must have its element.
    pub(crate) fn check(self, argument: &'static str) -> Result<()> {
        match self {
            Self::Device(view) if D::len(view) == 0 => {
                Err(Error::argument(argument, "an empty buffer", "one element"))
            }
            _ => Ok(()),
        }
    }

    /// A scale that the host knows must be one.
    pub(crate) fn check_scale(self) -> Result<()> {
        match self {
            Self::Value(value) if !(value > 0.0 && value.is_finite()) => {
                Err(Error::argument("scale", value.to_string(), "a finite number above 0"))
            }
            _ => self.check("scale"),
        }
    }
}

impl<D: Device> std::fmt::Debug for Scalar<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Value(value) => f.debug_tuple("Value").field(value).finish(),
            Self::Device(_) => f.write_str("Device(..)"),
        }
    }
}

impl<D: Device> From<f32> for Scalar<'_, D> {
    fn from(value: f32) -> Self {
        Self::Value(value)
    }
}

impl<'a, D: Device, S> From<&'a S> for Scalar<'a, D>
where
    S: Storage<Device = D, Element = f32> + ?Sized,
{
    fn from(storage: &'a S) -> Self {
        Self::Device(storage.view())
    }
}
