//! Files below the watched directories: what a path leads to, which version it is, who works on it, and which id it
//! carries.

pub mod blocking;
pub mod carried;
pub mod directory;
pub mod file;
pub mod lock;
pub mod members;
pub mod root;
pub mod stamp;
pub mod task_state;
pub mod temp;
