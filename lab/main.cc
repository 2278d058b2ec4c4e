// midstream-lab: the lab on the command line, and the processes that it is made of.
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "lab/cluster.h"
#include "lab/enter.h"
#include "lab/guardian.h"
#include "lab/init.h"
#include "lab/lab.h"
#include "lab/relay.h"
#include "lab/trial.h"
#include "lab/trials.h"

namespace midstream::lab {
namespace {

namespace fs = std::filesystem;

constexpr Millis kUpSpan{120'000};

constexpr const char* kUsage =
    "usage: midstream-lab [--dir DIR] COMMAND\n"
    "  up [SCENARIO] [--fast]        build a lab; it stays until down\n"
    "  hold [SCENARIO] [--fast]      build one and hold it until Ctrl-C\n"
    "  run [SCENARIO] [--fast] [--mail] [--seeded] [--far MS] [--roll-back]   a whole move, and back again; --mail: mail has users;\n"
    "                                --seeded: the database goes by the seeded road;\n"
    "                                --far MS: the operator's host is so far from all others, there and back\n"
    "  trial [NAME [SEED]]           a move with faults, then the checker; without a name: which there are\n"
    "  down                          end it\n"
    "  hosts                         what runs, as JSON\n"
    "  exec HOST -- ARGV...          run a program on a host (fabric: beside the bridges)\n"
    "  powercut | poweroff | boot HOST\n"
    "  link HOST DEVICE up|down      pull a cable, or put it back\n"
    "  kill HOST NAME [SIGNAL]       signal processes by name (default 9)\n"
    "  fill HOST [BYTES-LEFT]        fill a disk;  unfill HOST frees it\n"
    "scenarios: demo, other\n";

fs::path own_directory() { return fs::read_symlink("/proc/self/exe").parent_path(); }

struct Arguments {
  fs::path directory = own_directory().parent_path() / "lab";
  bool fast = false;
  bool roll_back = false;
  bool mail = false;
  bool seeded = false;
  Millis far{0};
  std::vector<std::string> words;  // up to "--"
  std::vector<std::string> rest;   // after it
};

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--") {
      arguments.rest.assign(argv + i + 1, argv + argc);
      break;
    }
    if (word == "--fast") {
      arguments.fast = true;
    } else if (word == "--mail") {
      arguments.mail = true;
    } else if (word == "--seeded") {
      arguments.seeded = true;
    } else if (word == "--roll-back") {
      arguments.roll_back = true;
    } else if (word == "--far" && i + 1 < argc) {
      arguments.far = Millis(std::atoi(argv[++i]));
    } else if (word == "--dir" && i + 1 < argc) {
      arguments.directory = fs::absolute(argv[++i]);
    } else {
      arguments.words.push_back(word);
    }
  }
  return arguments;
}

int fail(const Error& error) {
  fmt::print(stderr, "midstream-lab: {}\n", error.text());
  return error.kind == ErrorKind::refused ? 2 : 1;
}

int usage() {
  std::fputs(kUsage, stderr);
  return 64;
}

LabSpec spec_of(const Arguments& arguments) {
  LabSpec spec;
  if (arguments.words.size() > 1) spec.scenario = arguments.words[1];
  spec.fast = arguments.fast;
  spec.mail = arguments.mail;
  spec.seeded = arguments.seeded;
  spec.directory = arguments.directory;
  spec.programs = own_directory();
  spec.tell = [](std::string_view line) { fmt::print(stderr, "lab: {}\n", line); };
  return spec;
}

void print_hosts(const Lab& lab) {
  for (const auto& host : lab.scenario().hosts()) fmt::print("{:10} {:5} {}\n", host.name, to_string(host.role), host.mgmt);
}

int bring_up(const Arguments& arguments, bool hold) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, signal);
  if (hold) ::sigprocmask(SIG_BLOCK, &set, nullptr);
  const auto began = boot_now();
  auto lab = Lab::up(spec_of(arguments), Deadline::in(kUpSpan));
  if (!lab) return fail(lab.error());
  const auto span = std::chrono::duration_cast<Millis>(boot_now() - began);
  fmt::print(stderr, "lab: {} is up after {} ms in {}\n", lab->scenario().name, span.count(), lab->directory().string());
  if (!hold) {
    if (auto done = lab->detach(); !done) return fail(done.error());
  }
  print_hosts(*lab);
  std::fflush(stdout);
  if (!hold) return 0;
  int signal = 0;
  ::sigwait(&set, &signal);
  if (auto done = lab->down(); !done) return fail(done.error());
  return 0;
}

int run_move(const Arguments& arguments) {
  TrialSpec spec;
  if (arguments.words.size() > 1) spec.scenario = arguments.words[1];
  spec.fast = arguments.fast;
  spec.mail = arguments.mail;
  spec.seeded = arguments.seeded;
  spec.far = arguments.far;
  spec.directory = arguments.directory;
  spec.programs = own_directory();
  spec.tell = [](std::string_view line) {
    fmt::print("{}\n", line);
    std::fflush(stdout);
  };
  return run_demo(spec, arguments.directory.parent_path(), arguments.roll_back);
}

int trial(const Arguments& arguments) {
  if (arguments.words.size() < 2) {
    for (const auto& name : trial_names()) fmt::print("{}\n", name);
    return 0;
  }
  TrialSpec spec;
  spec.fast = true;
  spec.mail = arguments.mail;
  spec.seeded = arguments.seeded;
  spec.far = arguments.far;
  spec.directory = arguments.directory;
  spec.programs = own_directory();
  spec.tell = [](std::string_view line) {
    fmt::print("  {}\n", line);
    std::fflush(stdout);
  };
  const auto seed = arguments.words.size() > 2 ? std::strtoull(arguments.words[2].c_str(), nullptr, 10)
                                               : static_cast<unsigned long long>(wall_now_ms());
  return run_trial(arguments.words[1], std::move(spec), seed);
}

int guardian(const std::vector<std::string>& words) {
  if (words.size() != 8) return usage();
  GuardianSpec spec;
  spec.directory = words[1];
  spec.programs = own_directory();
  auto scenario = find_scenario(words[2], words[3] == "fast");
  if (!scenario) return fail(scenario.error());
  spec.scenario = std::move(*scenario);
  spec.scenario.mail = words[6] == "mail";
  spec.scenario.seeded = words[7] == "seeded";
  spec.cluster_old = words[4];
  spec.cluster_new = words[5];
  spec.lifeline = Fd(3);
  return run_guardian(std::move(spec));
}

int build_template(const std::vector<std::string>& words) {
  if (words.size() != 4) return usage();
  const auto scenario = find_scenario(words[1], false);
  if (!scenario) return fail(scenario.error());
  const Role side = words[2] == "old" ? Role::old_side : Role::new_side;
  const auto built = build_cluster_template(*scenario, side, words[3], own_directory());
  return built ? 0 : fail(built.error());
}

Result<int> act(const Arguments& arguments) {
  const auto& words = arguments.words;
  auto lab = TRY(Lab::open(arguments.directory, own_directory()));
  const auto word = [&](std::size_t i, const char* fallback) { return words.size() > i ? words[i] : fallback; };
  if (words[0] == "down") {
    CHECK_OK(lab.down());
  } else if (words[0] == "hosts") {
    fmt::print("{}\n", TRY(ask_guardian(arguments.directory, {{"do", "hosts"}})).dump(2));
  } else if (words.size() < 2) {
    return usage();
  } else if (words[0] == "powercut") {
    CHECK_OK(lab.powercut(words[1]));
  } else if (words[0] == "poweroff") {
    CHECK_OK(lab.poweroff(words[1]));
  } else if (words[0] == "boot") {
    CHECK_OK(lab.boot(words[1]));
  } else if (words[0] == "link" && words.size() == 4) {
    CHECK_OK(lab.set_link(words[1], words[2], words[3] == "up"));
  } else if (words[0] == "kill" && words.size() > 2) {
    fmt::print("{}\n", TRY(lab.kill(words[1], words[2], std::atoi(word(3, "9").c_str()))));
  } else if (words[0] == "fill") {
    CHECK_OK(lab.fill(words[1], std::strtoull(word(2, "0").c_str(), nullptr, 10)));
  } else if (words[0] == "unfill") {
    CHECK_OK(lab.unfill(words[1]));
  } else {
    return usage();
  }
  return 0;
}

int run(int argc, char** argv) {
  const auto arguments = parse(argc, argv);
  if (arguments.words.empty()) return usage();
  const auto& verb = arguments.words[0];
  if (verb == "init") return run_init();
  // At once, here and below: with children in another pid namespace a leak check at exit would hang.
  if (verb == "guardian") ::_exit(guardian(arguments.words));
  if (verb == "relay" && arguments.words.size() == 4)
    return fail(relay(arguments.words[1], arguments.words[2], Millis(std::atoi(arguments.words[3].c_str()))).error());
  if (verb == "template") return build_template(arguments.words);
  if (verb == "up") return bring_up(arguments, false);
  if (verb == "hold") return bring_up(arguments, true);
  if (verb == "run") return run_move(arguments);
  if (verb == "trial") return trial(arguments);
  if (verb == "exec" && arguments.words.size() == 2 && !arguments.rest.empty()) {
    const auto code = enter_and_run(arguments.directory, arguments.words[1], arguments.rest);
    ::_exit(code ? *code : fail(code.error()));
  }
  const auto code = act(arguments);
  return code ? *code : fail(code.error());
}

}  // namespace
}  // namespace midstream::lab

int main(int argc, char** argv) {
  ::umask(022);  // whatever the caller's: the hosts' files are read by daemons that are not root
  return midstream::lab::run(argc, argv);
}
