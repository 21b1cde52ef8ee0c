//! Events, counters, histograms.
