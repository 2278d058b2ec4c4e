// One lab host as a set of namespaces: net, mount, pid, uts and ipc, with a root of its own.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "lab/files.h"
#include "sys/fd.h"

namespace midstream::lab {

struct MachineSpec {
  std::string name;
  std::filesystem::path image;
  std::filesystem::path mount_point;    // a directory; nothing is left mounted there outside the namespace
  std::filesystem::path programs;       // bind-mounted read-only at /opt/midstream/bin
  std::filesystem::path shared;         // bind-mounted at /lab; empty: not
  const FileSet* files = nullptr;       // written before init starts; nullptr: the image is as it was (a reboot)
  std::vector<std::string> command;     // what becomes process 1
  std::filesystem::path console;        // process 1's stdout and stderr
  bool repair = false;                  // check the file system first
};

// A machine whose namespaces exist and which waits for `start`: the moment to give it its network devices.
struct StartedMachine {
  pid_t pid = -1;  // its process 1, in the caller's pid namespace; a child of the caller once `prepare` has returned
  Fd go;           // written to by start_machine
  Fd report;       // what went wrong before the command was executed; closed without a word on success
};

// Must be called by a process with one thread that is process 1 of its pid namespace (or a subreaper).
Result<StartedMachine> prepare_machine(const MachineSpec& spec);
// Lets it mount its disk and execute its command; returns when it does, or with the reason why it cannot.
Result<> start_machine(StartedMachine& machine);
// The second half of start_machine, for starting several at once.
Result<> await_machine(StartedMachine& machine);

// Makes every mount of the caller's mount namespace private, also from within a chroot.
Result<> make_mounts_private();

}  // namespace midstream::lab
