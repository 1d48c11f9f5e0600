"""The report's page: layout, colours, and the script that sorts its tables."""

from string import Template

PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>
body { margin: 2rem; background: #f5f5f3; color: #333331; font: 14px/1.45 system-ui, sans-serif }
h1, h2 { font-weight: 600; margin: 1.6em 0 .5em }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15em 1em; margin: 0 }
dt { color: #70706c }
dd { margin: 0 }
table { border-collapse: collapse; background: #fff }
th, td { padding: .4em .7em; border: 1px solid #deded9; text-align: right; vertical-align: middle }
th { background: #ecece8; position: sticky; top: 0 }
td:first-child, th:first-child { text-align: left }
#assets td:first-child { min-width: 12em }
button { all: unset; cursor: pointer; font-weight: 600 }
button:focus-visible { outline: 2px solid #3b6ea5 }
th[aria-sort=ascending] button::after { content: " \\25B2" }
th[aria-sort=descending] button::after { content: " \\25BC" }
.bad { color: #b3371f; font-weight: 600 }
img { display: block; height: 120px }
polyline { fill: none; stroke: #3b6ea5; stroke-width: 1 }
#curves { height: auto; max-width: 100%; border: 1px solid #deded9 }
details { overflow-x: auto }
summary { cursor: pointer; margin: .5em 0; font-weight: 600 }
.sheets { font-size: 12px }
.sheets tbody th { min-width: 9em; font-weight: 400; position: sticky; left: 0 }
.sheets td { text-align: left }
.sheets td div { display: flex; gap: 2px }
.sheets img { height: 128px }
</style>
<h1>$title</h1>
<dl>$facts</dl>
$tables
<h2>Methods</h2>
$methods
<p>In brackets: 95&thinsp;% intervals; Wilson's of rates, of means by a bootstrap over prompts.</p>
$curves
$sheets
<h2>Assets</h2>
$assets
$left_out
<script>
for (const button of document.querySelectorAll("th button")) {
  button.onclick = () => {
    const head = button.parentElement, table = head.closest("table"), body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending", place = head.cellIndex;
    const value = (row) => {
      const cell = row.cells[place];
      return "order" in cell.dataset ? Number(cell.dataset.order) : cell.textContent;
    };
    const missing = (row) => row.cells[place].textContent === "–";
    const rows = [...body.rows].sort((a, b) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      const x = value(a), y = value(b);
      const order = typeof x === "number" ? x - y : x.localeCompare(y);
      return up ? order : -order;
    });
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...rows);
  };
}
</script>
</html>
""")
