// The main of test programs that start daemons.
#include <gtest/gtest.h>

#include "sys/enclosed.h"

int main(int argc, char** argv) {
  return midstream::test::run_enclosed([&] {
    testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
  });
}
