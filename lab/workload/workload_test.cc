#include <gtest/gtest.h>
#include <sys/socket.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "lab/workload/http.h"
#include "lab/workload/imap.h"
#include "lab/workload/ledger.h"
#include "lab/workload/orders.h"
#include "lab/workload/record.h"
#include "lab/workload/resolver.h"
#include "lab/workload/sha256.h"
#include "lab/workload/shelf.h"
#include "lab/workload/visitor.h"
#include "sys/file.h"
#include "sys/net.h"

namespace midstream::lab {
namespace {

class TempDir {
 public:
  TempDir() {
    char name[] = "/tmp/midstream-workload-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

Record order_record(RecordType type, std::uint64_t op, std::int64_t boot_ns, std::int64_t started_ns = 0) {
  Record record;
  record.type = type;
  record.boot_ns = boot_ns;
  record.op = op;
  record.key = "c1-" + std::to_string(op);
  record.customer = "customer-1";
  record.amount = 5;
  record.items = {"sku-1", "sku-2"};
  record.started_ns = started_ns;
  record.tries = 1;
  return record;
}

TEST(Record, SurvivesItsLine) {
  Record record = order_record(RecordType::attempted, 7, 1000);
  const auto again = parse_record(to_line(record));
  ASSERT_TRUE(again) << again.error().text();
  EXPECT_EQ(again->key, "c1-7");
  EXPECT_EQ(again->items, record.items);
  record.type = RecordType::unknown;
  record.why = "it \"broke\"\n\xff";
  const auto outcome = parse_record(to_line(record));
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->type, RecordType::unknown);
}

TEST(Record, TornLastLineIsLeftOutAndATornOneBeforeIsNot) {
  const std::string line = to_line(order_record(RecordType::attempted, 1, 1000)) + "\n";
  EXPECT_EQ(parse_ledger(line + line.substr(0, 20))->size(), 1u);
  EXPECT_FALSE(parse_ledger(line.substr(0, 20) + "\n" + line));
}

TEST(Summary, PauseReachesFromTheFirstFailureToTheNextSuccessOfThatUser) {
  const std::int64_t ms = 1000000;
  const std::vector<Record> records{order_record(RecordType::attempted, 1, 0),
                                    order_record(RecordType::acknowledged, 1, 5 * ms, 1 * ms),
                                    order_record(RecordType::attempted, 2, 10 * ms),
                                    order_record(RecordType::unknown, 2, 40 * ms, 10 * ms),
                                    order_record(RecordType::attempted, 3, 50 * ms),
                                    order_record(RecordType::acknowledged, 3, 70 * ms, 50 * ms),
                                    order_record(RecordType::attempted, 4, 80 * ms)};
  const auto web = summarise(records).at("web");
  EXPECT_EQ(web.requests, 4);
  EXPECT_EQ(web.acknowledged, 2);
  EXPECT_EQ(web.failed, 1);
  EXPECT_EQ(web.unknown, 2);  // the last one was never answered
  EXPECT_EQ(web.longest_pause_us, 60000);
}

TEST(Ledger, ManyThreadsShareItAndRunsGetTheirOwnFiles) {
  const TempDir dir;
  auto first = Ledger::open(dir.path(), "c");
  ASSERT_TRUE(first) << first.error().text();
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 25; ++i) {
          const auto ticket = (*first)->append(order_record(RecordType::attempted, (*first)->next_op(), 0));
          ASSERT_TRUE(ticket);
          ASSERT_TRUE((*first)->sync(*ticket));
        }
      });
    }
  }
  const auto second = Ledger::open(dir.path(), "c");
  ASSERT_TRUE(second);
  EXPECT_EQ((*first)->prefix(), "c1-");
  EXPECT_EQ((*second)->prefix(), "c2-");
  const auto records = parse_ledger(*read_file((*first)->path()));
  ASSERT_TRUE(records);
  ASSERT_EQ(records->size(), 101u);
  for (std::size_t i = 1; i < records->size(); ++i)
    EXPECT_LE((*records)[i - 1].boot_ns, (*records)[i].boot_ns);
}

TEST(Http, HeadsAreParsedAndNonsenseIsNot) {
  const auto request = parse_request_head("PUT /files/a HTTP/1.1\r\nContent-Length:  3\r\nX-A: b");
  ASSERT_TRUE(request);
  EXPECT_EQ(request->headers.at("content-length"), "3");
  EXPECT_FALSE(parse_request_head("PUT /files/a"));
  EXPECT_FALSE(parse_request_head("GET / HTTP/1.1\r\nno colon"));
  EXPECT_FALSE(parse_response_head("HTTP/1.1 2x0 OK"));
  EXPECT_FALSE(parse_response_head("HTTP/1.1 503 no\r\nconnection: close")->keep_alive);
  EXPECT_EQ(parse_http_url("http://[::1]:81")->host, "::1");
  EXPECT_EQ(parse_http_url("http://shop.example")->port, 80);
  EXPECT_FALSE(parse_http_url("http://shop.example:x"));
  EXPECT_FALSE(parse_http_url("https://shop.example"));
}

// A server that answers each connection's requests, and closes the connection instead of giving the `drop`th
// answer.
class Server {
 public:
  explicit Server(int drop)
      : listener_(*listen_tcp("127.0.0.1", 0)), thread_([this, drop](const std::stop_token& stop) {
          while (auto socket = accept_one(listener_.get(), stop)) {
            const auto stream = make_fd_stream(*std::move(socket));
            HttpReader reader(*stream);
            for (int n = 1;; ++n) {
              const auto request = reader.read_request(Deadline::in(Millis(5000)), stop);
              if (!request || !*request || n == drop) break;
              ++answered_;
              HttpResponse response;
              response.status = 200;
              if (!stream->write_all(format_response(response), Deadline::in(Millis(5000)), stop)) break;
            }
          }
        }) {}
  std::uint16_t port() const { return *local_port(listener_.get()); }
  int answered() const { return answered_; }

 private:
  Fd listener_;
  std::atomic<int> answered_{0};
  std::jthread thread_;
};

TEST(Visitor, ReplacesAConnectionThatWasClosedWhileIdleAndHidesNothingElse) {
  Resolver resolver;
  const Server third(3);
  Visitor patient(resolver, HttpUrl{"127.0.0.1", third.port()}, 100);
  const HttpRequest request{"GET", "/", {}, ""};
  EXPECT_EQ(patient.send(request, Deadline::in(Millis(5000))).tries, 1);
  EXPECT_EQ(patient.send(request, Deadline::in(Millis(5000))).tries, 1);
  const auto again = patient.send(request, Deadline::in(Millis(5000)));
  EXPECT_TRUE(again.response);
  EXPECT_EQ(again.tries, 2);

  const Server first(1);
  Visitor cut(resolver, HttpUrl{"127.0.0.1", first.port()}, 100);
  const auto lost = cut.send(request, Deadline::in(Millis(5000)));
  ASSERT_FALSE(lost.response);
  EXPECT_EQ(lost.response.error().kind, ErrorKind::unknown);
  EXPECT_EQ(lost.tries, 1);
}

TEST(Visitor, AddressesAreRacedAndARefusedConnectionNeverLeft) {
  std::uint16_t closed = 0;
  {
    const auto listener = listen_tcp("127.0.0.1", 0);
    closed = *local_port(listener->get());
  }
  Resolver resolver;
  Visitor visitor(resolver, HttpUrl{"127.0.0.1", closed}, 100);
  const auto reply = visitor.send(HttpRequest{"GET", "/", {}, ""}, Deadline::in(Millis(5000)));
  ASSERT_FALSE(reply.response);
  EXPECT_NE(reply.response.error().kind, ErrorKind::unknown);
  const Server server(0);
  EXPECT_TRUE(connect_any({"127.0.0.2", "127.0.0.1"}, server.port(), Deadline::in(Millis(5000)), {}));
}

TEST(Resolver, TakesTheLeastTtlAndTheWantedType) {
  // Header: an answer to one question with two records, a CNAME (TTL 9) and an A (TTL 30).
  const std::string question = std::string("\1w\0\0\1\0\1", 7);
  const std::string header("\0\1\x81\x80\0\1\0\2\0\0\0\0", 12);
  const std::string cname("\xc0\x0c\0\5\0\1\0\0\0\x09\0\3\1x\0", 15);
  const std::string a("\xc0\x0c\0\1\0\1\0\0\0\x1e\0\4\xc0\0\2\x0a", 16);
  const auto answer = parse_dns_answer(header + question + cname + a, 1);
  ASSERT_TRUE(answer) << answer.error().text();
  EXPECT_EQ(answer->addresses, std::vector<std::string>{"192.0.2.10"});
  EXPECT_EQ(answer->ttl.count(), 9);
  EXPECT_TRUE(parse_dns_answer(header + question + cname + a, 28)->addresses.empty());
  EXPECT_FALSE(parse_dns_answer(header + question + cname + a.substr(0, 10), 1));
}

TEST(Shelf, KeepsWholeFilesUnderPlainNames) {
  const TempDir dir;
  const auto shelf = Shelf::open(dir.path());
  ASSERT_TRUE(shelf);
  ASSERT_TRUE(shelf->put("a.bin", "one"));
  ASSERT_TRUE(shelf->put("a.bin", "three"));
  EXPECT_EQ(**shelf->get("a.bin"), "three");
  EXPECT_FALSE(*shelf->get("b.bin"));
  for (const auto* name : {"", ".hidden", "../a.bin", "a/b", "a\n"})
    EXPECT_FALSE(shelf->put(name, "x")) << name;
  EXPECT_FALSE(shelf->get_static("../uploads/a.bin"));
  int files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(dir.path() / "uploads"))
    ++files;
  EXPECT_EQ(files, 1);
}

TEST(Orders, AreReadFromJsonOrRefused) {
  const auto order = order_from_json(Json{{"key", "k"}, {"customer", "c"}, {"amount", 1}, {"items", {"a"}}});
  ASSERT_TRUE(order);
  EXPECT_EQ(*order_from_json(to_json(*order)), *order);
  EXPECT_FALSE(order_from_json(Json{{"customer", "c"}, {"amount", 1}}));
  EXPECT_FALSE(order_from_json(Json{{"key", "k"}, {"customer", "c"}, {"amount", 3000000000}}));
  EXPECT_FALSE(order_from_json(Json::array()));
}

TEST(MadeUpBytes, AreTheSameForEver) {
  EXPECT_EQ(made_up_bytes("a", 10), made_up_bytes("a", 20).substr(0, 10));
  EXPECT_NE(made_up_bytes("a", 10), made_up_bytes("b", 10));
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(Imap, ReadsWhatAFetchAnswers) {
  const auto message = parse_fetch("* 3 FETCH (UID 12 FLAGS (\\Seen \\Recent) BODY[HEADER.FIELDS (MESSAGE-ID)] {30}\r\nMessage-Id: <a@b.example>\r\n\r\n)");
  ASSERT_TRUE(message);
  EXPECT_EQ(message->first, 12);
  EXPECT_EQ(message->second.id, "a@b.example");
  EXPECT_EQ(message->second.flags, std::set<std::string>{"\\Seen"});
  EXPECT_EQ(parse_fetch("* 3 FETCH (FLAGS () UID 9)")->first, 9);
  EXPECT_FALSE(parse_fetch("* 3 EXISTS"));
  EXPECT_FALSE(parse_fetch("* OK [UIDVALIDITY 3] FETCH"));
}

TEST(MailPlaces, AreAllNamed) {
  const auto places = parse_mail_places("mx=a imap=b sink=c users=/d");
  ASSERT_TRUE(places);
  EXPECT_EQ(places->sink_domain, "c");
  for (const char* bad : {"", "mx=a", "mx=a imap=b sink=c users=/d pop=e", "mx imap=b sink=c users=/d"}) EXPECT_FALSE(parse_mail_places(bad)) << bad;
}

}  // namespace
}  // namespace midstream::lab
