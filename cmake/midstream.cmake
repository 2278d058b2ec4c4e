# One helper a kind of target; every target names its sources, no globs.
find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(GTest REQUIRED)

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${CCACHE})
endif()

add_library(midstream_flags INTERFACE)
# Quoted includes only: our sys/ must not hide the system's <sys/...>.
target_compile_options(midstream_flags INTERFACE "SHELL:-iquote ${CMAKE_SOURCE_DIR}/src" "SHELL:-iquote ${CMAKE_SOURCE_DIR}")
target_compile_definitions(midstream_flags INTERFACE _FILE_OFFSET_BITS=64
    BOOST_ASIO_NO_DEPRECATED BOOST_ALL_NO_LIB)
target_compile_options(midstream_flags INTERFACE -Wall -Wextra -Wnon-virtual-dtor -Wimplicit-fallthrough
    -Wno-missing-field-initializers -fno-omit-frame-pointer)
# GCC 12 sees uninitialized strings behind TRY at -O2 where there are none; the sanitizers look for real ones.
target_compile_options(midstream_flags INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
if(CCACHE)
  target_compile_options(midstream_flags INTERFACE $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
endif()
# GCC 12 at -O2 sees overruns within moved strings and std::expected that are not there; -Werror is for the dev build.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_BUILD_TYPE STREQUAL "Release")
  target_compile_options(midstream_flags INTERFACE -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread -Wno-restrict
      -Wno-dangling-pointer)
endif()
if(MIDSTREAM_WERROR)
  target_compile_options(midstream_flags INTERFACE -Werror)
endif()
if(MIDSTREAM_SANITIZE)
  target_compile_options(midstream_flags INTERFACE -fsanitize=${MIDSTREAM_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(midstream_flags INTERFACE -fsanitize=${MIDSTREAM_SANITIZE})
endif()
target_link_libraries(midstream_flags INTERFACE Threads::Threads)
if(MIDSTREAM_FUZZ)
  target_compile_options(midstream_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(MIDSTREAM_TIDY)
  set(CMAKE_CXX_CLANG_TIDY clang-tidy-19)
endif()

# The headers nearly every file needs, compiled once for the whole tree.
add_library(midstream_pch STATIC ${CMAKE_SOURCE_DIR}/cmake/pch.cc)
target_link_libraries(midstream_pch PUBLIC midstream_flags)
target_precompile_headers(midstream_pch PRIVATE <nlohmann/json.hpp> <fmt/format.h> <chrono> <expected> <filesystem>
    <functional> <map> <memory> <optional> <set> <span> <stop_token> <string> <string_view> <thread> <vector>)

# midstream_module(NAME SOURCES a.cc ... [DEPS ...] [TESTS a_test.cc ...] [TEST_DEPS ...] [LONG Suite.Test ...])
#   a static library NAME, and a test program NAME_test where TESTS are given.
function(midstream_module name)
  cmake_parse_arguments(M "" "" "SOURCES;DEPS;TESTS;TEST_DEPS;LONG" ${ARGN})
  add_library(${name} STATIC ${M_SOURCES})
  target_link_libraries(${name} PUBLIC midstream_flags ${M_DEPS})
  target_precompile_headers(${name} REUSE_FROM midstream_pch)
  if(M_TESTS)
    midstream_test(${name}_test SOURCES ${M_TESTS} DEPS ${name} ${M_TEST_DEPS} LONG ${M_LONG})
  endif()
endfunction()

# midstream_test(NAME SOURCES ... DEPS ... [LONG Suite.Test ...]): a GoogleTest program, one ctest entry, tier "unit". What
# takes too long for every build, or measures so closely that nothing may run beside it, is named by LONG: it is the entry
# NAME_long, tier "lab".
function(midstream_test name)
  cmake_parse_arguments(M "" "" "SOURCES;DEPS;LONG" ${ARGN})
  midstream_test_program(${name} SOURCES ${M_SOURCES} DEPS ${M_DEPS} GTest::gtest_main)
  string(REPLACE ";" ":" long "${M_LONG}")
  # A test does not outlive the one who asked for it, however that ends.
  add_test(NAME ${name} COMMAND setpriv --pdeathsig KILL $<TARGET_FILE:${name}> "--gtest_filter=-${long}" WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS unit TIMEOUT 60)
  if(M_LONG)
    add_test(NAME ${name}_long COMMAND setpriv --pdeathsig KILL $<TARGET_FILE:${name}> "--gtest_filter=${long}" WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(${name}_long PROPERTIES LABELS lab TIMEOUT 120 RUN_SERIAL TRUE)
  endif()
endfunction()

# midstream_live_test(NAME SOURCES ... DEPS ... [TIMEOUT seconds] [COST seconds] [TIER label] [PROGRAMS program ...] [ALONE Suite.Test ...])
#   a GoogleTest program that starts daemons, in a world of its own (sys/enclosed.h); tier "lab", beside others. PROGRAMS are started by
#   it, from MIDSTREAM_PROGRAMS. What measures how long something takes is named by ALONE: it is the entry NAME_alone, with nothing beside
#   it. COST: what takes long is begun first.
function(midstream_live_test name)
  cmake_parse_arguments(M "" "TIMEOUT;TIER;COST" "SOURCES;DEPS;PROGRAMS;ALONE" ${ARGN})
  midstream_test_program(${name} SOURCES ${M_SOURCES} DEPS ${M_DEPS} enclosed_main)
  target_compile_definitions(${name} PRIVATE MIDSTREAM_PROGRAMS="${CMAKE_RUNTIME_OUTPUT_DIRECTORY}" MIDSTREAM_PROGRAM="${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/midstream")
  if(M_PROGRAMS)
    add_dependencies(${name} ${M_PROGRAMS})
  endif()
  foreach(default "TIER;lab" "TIMEOUT;300" "COST;10")
    list(GET default 0 key)
    list(GET default 1 value)
    if(NOT M_${key})
      set(M_${key} ${value})
    endif()
  endforeach()
  string(REPLACE ";" ":" alone "${M_ALONE}")
  add_test(NAME ${name} COMMAND setpriv --pdeathsig KILL $<TARGET_FILE:${name}> "--gtest_filter=-${alone}" WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS ${M_TIER} TIMEOUT ${M_TIMEOUT} COST ${M_COST})
  if(M_ALONE)
    add_test(NAME ${name}_alone COMMAND setpriv --pdeathsig KILL $<TARGET_FILE:${name}> "--gtest_filter=${alone}" WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(${name}_alone PROPERTIES LABELS ${M_TIER} TIMEOUT ${M_TIMEOUT} RUN_SERIAL TRUE)
  endif()
endfunction()

function(midstream_test_program name)
  cmake_parse_arguments(M "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${M_SOURCES})
  target_link_libraries(${name} PRIVATE midstream_flags ${M_DEPS} GTest::gtest)
  target_precompile_headers(${name} REUSE_FROM midstream_pch)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/test)
endfunction()

# midstream_program(NAME SOURCES ... DEPS ...): an executable that needs nothing but glibc on its host.
function(midstream_program name)
  cmake_parse_arguments(M "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${M_SOURCES})
  target_link_libraries(${name} PRIVATE midstream_flags ${M_DEPS})
  target_link_options(${name} PRIVATE -static-libstdc++ -static-libgcc)
  if(MIDSTREAM_SANITIZE MATCHES "address" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_link_options(${name} PRIVATE -static-libasan -static-libubsan)
  endif()
  target_precompile_headers(${name} REUSE_FROM midstream_pch)
endfunction()

# Static third-party libraries, so that the agent runs on a bare host.
add_library(midstream_openssl INTERFACE)
target_link_libraries(midstream_openssl INTERFACE libssl.a libcrypto.a ${CMAKE_DL_LIBS})
add_library(midstream_zstd INTERFACE)
target_link_libraries(midstream_zstd INTERFACE libzstd.a)
add_library(midstream_xxhash INTERFACE)
target_link_libraries(midstream_xxhash INTERFACE libxxhash.a)
add_library(midstream_ldns INTERFACE)
target_link_libraries(midstream_ldns INTERFACE libldns.a midstream_openssl)
add_library(midstream_sqlite INTERFACE)
target_link_libraries(midstream_sqlite INTERFACE libsqlite3.a m ${CMAKE_DL_LIBS})
add_library(midstream_yaml INTERFACE)
target_link_libraries(midstream_yaml INTERFACE libyaml-cpp.a)
