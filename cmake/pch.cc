// Holds the precompiled header; see midstream.cmake.
