// The session core against what real clients and a real PostgreSQL 15 said to each other (transcripts/), split in every way,
// and against what hostile ones would say.
#include "gate/traffic.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "base/text.h"
#include "sys/file.h"

namespace midstream::gate {
namespace {

namespace fs = std::filesystem;
using namespace std::literals;

// A direction whose bytes are fed as a shell would: what was not taken is fed again, with more.
class Pipe {
 public:
  Pipe(Traffic& traffic, Sender sender) : traffic_(traffic), sender_(sender) {}
  void feed(std::string_view bytes) {
    waiting_.append(bytes);
    push();
  }
  void push() {
    const auto taken = sender_ == Sender::client ? traffic_.from_client(waiting_) : traffic_.from_server(waiting_);
    passed += waiting_.substr(0, taken);
    waiting_.erase(0, taken);
  }
  const std::string& waiting() const { return waiting_; }
  std::string passed;

 private:
  Traffic& traffic_;
  Sender sender_;
  std::string waiting_;
};

struct Session {
  Traffic traffic;
  Pipe client{traffic, Sender::client};
  Pipe server{traffic, Sender::server};
};

std::string summary(const Traffic& traffic) {
  const auto& answers = traffic.answers();
  std::vector<std::string> names;
  for (const auto& [name, body] : traffic.statements().all())
    names.push_back(fmt::format("'{}'({})", name, body.size()));
  std::vector<std::string> settings;
  for (const auto& [name, value] : traffic.parameters()) settings.push_back(name + "=" + value);
  return fmt::format("= {} owed {}{}{}{}{}{} requests {} errors {} notified {} {}", traffic.transaction(),
                     answers.size(), answers.doubts() > 0 ? fmt::format(" doubts {}", answers.doubts()) : "",
                     names.empty() ? "" : " statements " + join(names, ","),
                     traffic.statements().doubtful() ? " doubtful" : "",
                     traffic.portals().empty() ? "" : fmt::format(" portals {}", traffic.portals().size()),
                     settings.empty() ? "" : " settings " + join(settings, ","), traffic.counts().requests,
                     traffic.counts().errors, traffic.counts().notifications,
                     !traffic.pinned().empty() ? fmt::format("pinned: {}", traffic.pinned())
                     : traffic.safe()          ? "safe"
                                               : fmt::format("busy: {}", traffic.busy()));
}

struct Step {
  Sender sender;
  std::string bytes;
  std::string expected;
};

std::vector<Step> read_transcript(const fs::path& path) {
  std::vector<Step> steps;
  for (const auto& line : split(read_file(path).value(), '\n')) {
    if (line.starts_with("=")) {
      steps.back().expected = line;
    } else if (line.size() > 2) {
      steps.push_back({line[0] == 'C' ? Sender::client : Sender::server, from_hex(line.substr(2)).value(), ""});
    }
  }
  return steps;
}

std::vector<fs::path> transcripts() {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(MIDSTREAM_TRANSCRIPTS))
    if (entry.path().extension() == ".txt") paths.push_back(entry.path());
  std::ranges::sort(paths);
  return paths;
}

void rewrite(const fs::path& path, const std::vector<Step>& steps) {
  std::ofstream file(path);
  Session session;
  for (const auto& step : steps) {
    (step.sender == Sender::client ? session.client : session.server).feed(step.bytes);
    file << (step.sender == Sender::client ? "C " : "S ") << to_hex(step.bytes) << '\n'
         << summary(session.traffic) << '\n';
  }
}

class Transcript : public testing::TestWithParam<fs::path> {};

TEST_P(Transcript, IsFollowed) {
  const auto steps = read_transcript(GetParam());
  if (std::getenv("MIDSTREAM_REWRITE") != nullptr) return rewrite(GetParam(), steps);
  Session session;
  std::string sent[2];
  for (const auto& step : steps) {
    const bool client = step.sender == Sender::client;
    (client ? session.client : session.server).feed(step.bytes);
    sent[client ? 0 : 1] += step.bytes;
    ASSERT_EQ(summary(session.traffic), step.expected);
  }
  EXPECT_EQ(session.client.passed, sent[0]);
  EXPECT_EQ(session.server.passed, sent[1]);
  EXPECT_EQ(session.traffic.pinned(), "");
  EXPECT_TRUE(session.traffic.terminated() || session.traffic.server_ended());
  EXPECT_EQ(session.traffic.answers().size(), session.traffic.server_ended() ? 1u : 0u);
}

// Each piece cut in two at every place, the second half fed afterwards; then everything byte by byte.
TEST_P(Transcript, IsTheSameHoweverItIsSplit) {
  const auto steps = read_transcript(GetParam());
  std::size_t longest = 0;
  for (const auto& step : steps) longest = std::max(longest, step.bytes.size());
  for (std::size_t cut = 0; cut <= std::min<std::size_t>(longest, 600); ++cut) {
    Session session;
    for (const auto& step : steps) {
      auto& pipe = step.sender == Sender::client ? session.client : session.server;
      const auto bytes = std::string_view(step.bytes);
      if (cut == 0) {
        for (std::size_t i = 0; i < bytes.size(); ++i) pipe.feed(bytes.substr(i, 1));
      } else {
        pipe.feed(bytes.substr(0, cut));
        pipe.feed(bytes.substr(std::min(cut, bytes.size())));
      }
      ASSERT_EQ(summary(session.traffic), step.expected) << "cut at " << cut;
    }
  }
}

// Held at whatever moment: what the client sends stops at a safe point, or at once; released, all of it goes on.
TEST_P(Transcript, IsHeldOnlyAtASafePoint) {
  const auto steps = read_transcript(GetParam());
  for (std::size_t at = 0; at < steps.size(); ++at) {
    Session session;
    bool stopped = false;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      if (i == at) session.traffic.hold(true);
      auto& pipe = steps[i].sender == Sender::client ? session.client : session.server;
      pipe.feed(steps[i].bytes);
      session.client.push();
      if (session.client.waiting().empty()) continue;
      // A client that pipelines may be stopped with answers under way; once these are here it is safe, or goes on.
      ASSERT_TRUE(session.traffic.held());
      if (!session.traffic.safe()) continue;
      stopped = true;
      session.traffic.hold(false);
      session.client.push();
      ASSERT_EQ(session.client.waiting(), "");
    }
    EXPECT_TRUE(stopped || at + 1 >= steps.size() || session.traffic.server_ended() || session.traffic.terminated())
        << at;
    EXPECT_EQ(session.traffic.pinned(), "") << at;
  }
}

INSTANTIATE_TEST_SUITE_P(Recorded, Transcript, testing::ValuesIn(transcripts()), [](const auto& info) {
  auto name = info.param.stem().string();
  std::erase(name, '-');
  return name;
});

TEST(Transcripts, AreAllThere) { EXPECT_GE(transcripts().size(), 11u); }

std::string parse_message(std::string_view name, std::string_view sql) {
  return message('P', std::string(name) + '\0' + std::string(sql) + "\0\0\0"s);
}
std::string bind_message(std::string_view portal, std::string_view statement) {
  return message('B', std::string(portal) + '\0' + std::string(statement) + "\0\0\0\0\0\0\0"s);
}
const std::string kSync = message('S', "");
const std::string kExecute = message('E', "\0\0\0\0\0"sv);
const std::string kReady = message('Z', "I");
const std::string kInTransaction = message('Z', "T");
const std::string kCopyIn = message('G', "\0\0\0"sv);
const std::string kError = message('E', "SERROR\0VERROR\0C22000\0Mno\0\0"sv);
std::string query(std::string_view sql) { return message('Q', std::string(sql) + '\0'); }
std::string done(std::string_view tag) { return message('C', std::string(tag) + '\0'); }

TEST(Traffic, ACopyThatFailsLeavesADoubtUntilTheServerSpeaks) {
  for (const bool sync_was_read : {true, false}) {
    Session session;
    session.client.feed(parse_message("", "COPY") + bind_message("", "") + kExecute + kSync);
    session.server.feed(message('1', "") + message('2', "") + kCopyIn);
    session.client.feed(message('d', "1\n") + message('c', "") + kSync);
    session.server.feed(kError + kReady);
    EXPECT_FALSE(session.traffic.safe()) << "whether the first Sync is answered cannot be known";
    EXPECT_EQ(session.traffic.answers().doubts(), 1u);
    if (!sync_was_read) {
      session.server.feed(kReady);
      EXPECT_TRUE(session.traffic.safe());
    }
    session.client.feed(query("SELECT 1"));
    session.server.feed(done("SELECT 1"));
    EXPECT_FALSE(session.traffic.safe());
    session.server.feed(kReady);
    EXPECT_TRUE(session.traffic.safe()) << session.traffic.busy();
    EXPECT_EQ(session.traffic.pinned(), "");
  }
}

TEST(Traffic, AfterAnErrorEverythingUpToTheSyncIsDropped) {
  Session session;
  session.client.feed(parse_message("kept", "SELECT 1") + parse_message("bad", "nonsense") +
                      parse_message("dropped", "SELECT 2") + query("SELECT 'dropped too'"));
  session.server.feed(message('1', "") + kError);
  EXPECT_FALSE(session.traffic.safe());
  session.client.feed(query("SELECT 'and this'") + parse_message("neither", "SELECT 3"));
  EXPECT_FALSE(session.traffic.safe());
  session.client.feed(kSync);
  session.server.feed(kReady);
  EXPECT_TRUE(session.traffic.safe());
  EXPECT_EQ(session.traffic.statements().all().size(), 1u);
  EXPECT_TRUE(session.traffic.statements().all().contains("kept"));
}

TEST(Traffic, HoldLetsATransactionEnd) {
  Session session;
  session.client.feed(query("BEGIN"));
  session.traffic.hold(true);
  session.client.feed(query("INSERT"));  // pipelined: not known yet to be within a transaction
  EXPECT_EQ(session.client.waiting(), query("INSERT"));
  session.server.feed(done("BEGIN") + kInTransaction);
  session.client.push();
  EXPECT_EQ(session.client.waiting(), "");
  session.server.feed(done("INSERT 0 1") + kInTransaction);
  session.client.feed(query("COMMIT"));
  EXPECT_EQ(session.client.waiting(), "");
  session.client.feed(query("SELECT 1"));
  session.client.push();
  // COMMIT is under way within a transaction, so the next statement may still belong to it; it went on.
  session.server.feed(done("COMMIT") + kReady + done("SELECT 1") + kReady);
  EXPECT_TRUE(session.traffic.held());
  EXPECT_TRUE(session.traffic.safe());
  session.client.feed(query("SELECT 2"));
  EXPECT_EQ(session.client.waiting(), query("SELECT 2"));
}

TEST(Traffic, HoldLetsAnExtendedRequestAndACopyEnd) {
  Session session;
  session.client.feed(parse_message("", "COPY"));
  session.traffic.hold(true);
  session.client.feed(bind_message("", "") + kExecute + kSync + parse_message("", "next"));
  EXPECT_EQ(session.client.waiting(), parse_message("", "next"));
  session.server.feed(message('1', "") + message('2', "") + kCopyIn);
  EXPECT_FALSE(session.traffic.held());
  session.client.push();  // dropped by a server that reads COPY data; the client's mistake, not ours
  EXPECT_EQ(session.client.waiting(), "");
}

TEST(Traffic, StatementsOfTheFirst63BytesAreTheSame) {
  Session session;
  const std::string name(70, 'n');
  session.client.feed(parse_message(name, "SELECT 1") + kSync);
  session.server.feed(message('1', "") + kReady);
  EXPECT_TRUE(session.traffic.statements().all().contains(name.substr(0, 63)));
  session.client.feed(message('C', "S" + name + '\0') + kSync);
  session.server.feed(message('3', "") + kReady);
  EXPECT_TRUE(session.traffic.statements().all().empty());
}

TEST(Traffic, ALongStatementIsCountedAndPins) {
  Session session;
  const std::string sql(100'000, ' ');
  for (const char byte : parse_message("long", sql) + kSync) session.client.feed({&byte, 1});
  session.server.feed(message('1', "") + kReady);
  EXPECT_TRUE(session.traffic.safe());
  EXPECT_NE(session.traffic.pinned(), "");
  session.client.feed(message('C', "Slong\0"sv) + kSync);
  session.server.feed(message('3', "") + kReady);
  EXPECT_EQ(session.traffic.pinned(), "");
}

TEST(Traffic, AnAnswerThatNothingAsksForPins) {
  for (const auto& answer :
       {message('1', ""), kReady, done("SELECT 1"), message('G', "\0\0\0"sv), message('V', "\xff\xff\xff\xff")}) {
    Session session;
    session.server.feed(answer);
    EXPECT_NE(session.traffic.pinned(), "") << answer[0];
  }
}

// A large message goes through in pieces, and nothing of it stays.
TEST(Traffic, ALargeMessageIsStreamed) {
  Session session;
  constexpr std::uint32_t kLong = 1u << 26;
  std::string head("D");
  append_u32(head, kLong);
  session.client.feed(query("SELECT"));
  session.server.feed(head);
  const std::string piece(1u << 16, 'x');
  for (std::uint32_t sent = 4; sent < kLong; sent += piece.size()) {
    const auto taken = session.traffic.from_server(
        std::string_view(piece).substr(0, std::min<std::size_t>(piece.size(), (kLong)-sent)));
    ASSERT_EQ(taken, std::min<std::size_t>(piece.size(), (kLong)-sent));
  }
  session.server.feed(done("SELECT 1") + kReady);
  EXPECT_TRUE(session.traffic.safe());
  EXPECT_EQ(session.server.waiting(), "");
}

TEST(Traffic, AClientThatNeverReadsOwesNoMemoryWithoutEnd) {
  Session session;
  for (int i = 0; i < 20'000; ++i) session.client.feed(kSync);
  EXPECT_LE(session.traffic.answers().size(), 16'384u);
  EXPECT_GT(session.client.waiting().size(), 0u);
  for (int i = 0; i < 20'000; ++i) {
    session.server.feed(kReady);
    session.client.push();
  }
  EXPECT_EQ(session.client.waiting(), "");
  EXPECT_TRUE(session.traffic.safe());
}

std::string with_length(char type, std::uint32_t length) {
  std::string head(1, type);
  append_u32(head, length);
  return head;
}

TEST(Traffic, HostileBytesGetAClearError) {
  struct Case {
    std::string bytes;
    std::string error;
  };
  const Case cases[] = {
      {with_length('!', 4), "invalid frontend message type 33"},
      {std::string(5, '\0'), "invalid frontend message type 0"},
      {with_length('D', 20'000), "invalid message length"},
      {with_length('Q', 3), "invalid message length"},
      {with_length('Q', 0xffffffff), "invalid message length"},
      {with_length('d', 0x40000000), "invalid message length"},
      {with_length('S', 10'001), "invalid message length"},
      {"GET / HTTP/1.1\r\n", "invalid frontend message type 71"},
  };
  for (const auto& one : cases) {
    Session session;
    session.client.feed(query("SELECT 1") + one.bytes);
    ASSERT_TRUE(session.traffic.client_broken()) << one.error;
    EXPECT_EQ(session.traffic.client_broken()->message, one.error);
    EXPECT_EQ(session.traffic.client_broken()->sqlstate, "08P01");
    EXPECT_EQ(session.client.passed, query("SELECT 1")) << "nothing of it reaches the server";
    session.client.feed(query("SELECT 2"));
    EXPECT_EQ(session.client.passed, query("SELECT 1"));
  }
  Session session;
  session.server.feed(kReady + with_length('Z', 400));
  EXPECT_TRUE(session.traffic.server_broken());
  EXPECT_EQ(session.server.passed, kReady);
}

TEST(Traffic, SyncsWithoutEndWithinACopyAreRefused) {
  Session session;
  session.client.feed(query("COPY t FROM STDIN"));
  session.server.feed(kCopyIn);
  for (int i = 0; i < 20'000; ++i) session.client.feed(kSync);
  ASSERT_TRUE(session.traffic.client_broken());
  EXPECT_EQ(session.traffic.client_broken()->sqlstate, "54000");
}

TEST(Traffic, WhateverComesItAnswers) {
  std::mt19937_64 random(7);
  const std::string types = "QFdPBDEHScfXC1234nsTtGHWIVZKRvAN";
  for (int round = 0; round < 3'000; ++round) {
    Session session;
    for (int i = 0; i < 40; ++i) {
      const char type = types[random() % types.size()];
      auto bytes = message(type, std::string(random() % 9, "\0ISx"[random() % 4]));
      if (random() % 50 == 0) bytes.resize(random() % bytes.size());
      (random() % 2 == 0 ? session.client : session.server).feed(bytes);
      ASSERT_FALSE(session.traffic.safe() && session.traffic.answers().size() > 0);
      ASSERT_LE(session.client.waiting().size() + session.server.waiting().size(), 4'000u);
    }
  }
}

TEST(Wire, AnErrorReadsBack) {
  const auto bytes = error_message({"28P01", "password authentication failed for user \"x\"", "more"});
  std::string_view body = bytes;
  body.remove_prefix(kHeaderSize);
  EXPECT_EQ(error_field(body, 'C'), "28P01");
  EXPECT_EQ(error_field(body, 'S'), "FATAL");
  EXPECT_EQ(error_field(body, 'D'), "more");
  EXPECT_EQ(error_field(body, 'X'), "");
  EXPECT_EQ(error_field(body.substr(0, 12), 'C'), "");
}

}  // namespace
}  // namespace midstream::gate
