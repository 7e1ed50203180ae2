//! Tests of the test support itself: what all other tests are judged by has to be right.

mod by_hand;
mod checker;
mod endpoint;
mod exports;
