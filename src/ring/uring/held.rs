//! Memory that the kernel may use while we hold it: one address for life, and moving its owner moves nothing.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Owns a `T` on the heap through a raw pointer. Unlike a `Box`, moving it claims nothing about who else may write to the
/// `T`, so an operation in flight may point into it.
#[derive(Debug)]
pub struct Held<T>(NonNull<T>);

impl<T> Held<T> {
    /// Puts a value at an address that it keeps.
    pub fn new(value: T) -> Self {
        Self(NonNull::from(Box::leak(Box::new(value))))
    }

    /// The address, for the kernel. Valid until this is dropped.
    pub fn address(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: (owner) `new` leaked the box to us alone; (bounds) it holds one initialised `T`; (lifetime) it is freed
        // only in `drop`, which nobody calls while `self` is borrowed.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Held<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` makes it the only reference on our side. The fields that the kernel reads
        // or writes are not touched while their operation is in flight: see `Socket` for the flags that say so.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        // SAFETY: (owner) the pointer came from `Box::leak` in `new` and is freed here only; (lifetime) the backend drops
        // this after the last completion of every operation that points here, or forgets it.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
