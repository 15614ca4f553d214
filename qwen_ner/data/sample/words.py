"""Word lists of the sample: `SLOTS` makes entity surfaces, `FILLERS` makes what is no entity.

Out: for each slot its label and its shapes, a shape being a pattern over `PARTS` (`{city}市{bureau}`). Knows nothing of
sentences.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PARTS: dict[str, tuple[str, ...]] = {
    "city": _words(
        "北京 上海 杭州 广州 深圳 成都 武汉 南京 苏州 宁波 青岛 厦门 长沙"
        " 西安 郑州 合肥 福州 昆明 大连 沈阳 天津 重庆 济南 温州 义乌"
    ),
    "province": _words("浙江 江苏 广东 四川 湖北 山东 福建 云南 湖南 河南 安徽 江西"),
    "region": _words(
        "浙江杭州 浙江宁波 江苏南京 江苏苏州 广东深圳 四川成都 湖北武汉 山东青岛 福建厦门 湖南长沙 云南昆明 辽宁大连"
    ),
    "abroad": _words("孟买 东京 巴黎 首尔 曼谷 河内 伦敦 纽约"),
    "country": _words("印度 泰国 韩国 日本 法国 德国 越南 巴西 英国 美国"),
    "district": _words("江北区 滨江区 城东区 城西区 城南区 高新区 新城区 河东区 开发区 平安区"),
    "road": _words("文昌路 人民路 中山路 学院路 解放路 和平路 花园路 建设路 长江路 江南大道 新华街 光明街 河坊街"),
    "number": _words("5 8 12 16 18 26 33 58 66 88 108 128 200 306"),
    "brand_a": tuple("云星海晨青禾木南松乐优盛美天安金白春月红石新百万和"),
    "brand_b": tuple("禾朵尚芽果客派达语品康诺贝图衣食香鹿帆桥园田泉舟"),
    "brand": _words("三星 小米 华为 联想 海尔 美的"),
    "trade": _words("科技 集团 食品 服饰 电器 数码 家居 电子 传媒 证券"),
    "courier": _words("快递 速运 物流"),
    "media": _words("海潮 金桥 晨风 商业 购物 新知 江城 北岸 电商 南湖 云帆 民生"),
    "paper": _words("时报 晚报 商报 周报"),
    "department": _words("销售 市场 产品 技术 运营 品牌 采购 物流 人事 财务 区域 门店 客服 售后"),
    "service": _words("客服 售后 运营 门店 物流 退款"),
    "rank": _words("经理 总监 主管 专员 助理 负责人"),
    "staff": _words("经理 主管 专员 助理"),
    "surname": _words(
        "王 李 张 刘 陈 杨 赵 周 吴 徐 孙 马 朱 胡 林 何 高 罗 郑 梁 宋 唐 许 韩 冯 邓 曹 彭 曾 肖 田 董 聂 程 沈"
    ),
    "given": tuple("晓文佳志思若一景子明雨春小清青云书月知安星"),
    "last": tuple("舟禾岚渔柏宁川帆萱溪苗楠松云桥竹鹿田叶泉白星"),
    "pet": tuple("宝鹿鱼豆桃果雨月"),
    "foreign_given": _words("拉吉 米拉 卡洛 安娜 马可 苏珊 阿里 诺亚"),
    "foreign_last": _words("辛格 席尔瓦 洛佩斯 史密斯 杜邦 沙玛"),
    "scene_a": tuple("云青白紫金翠镜龙梅石月枫莲清凤古"),
    "scene_b": tuple("溪岩鹭竹林门泉沙花松峰桥"),
    "scene_kind": _words("山 湖 寺 塔 古镇 古城 公园 瀑布"),
    "outdoor": _words("山 湖 古镇 峡谷 公园 森林公园 风景区 草原"),
    "museum": _words("博物馆 植物园 动物园 海洋馆 野生动物园 美术馆"),
    "university": _words("大学 师范大学 理工大学 农业大学 工业大学"),
    "school": _words("第一中学 实验小学 外国语学校 职业学院"),
    "society": _words("消费者协会 电子商务协会 志愿者协会 餐饮协会 环保协会 质量协会"),
    "hospital": _words("人民医院 中医院 儿童医院"),
    "team": _words("飞鹰 猛虎 海豚 雄狮 闪电 蓝鲸 火箭"),
    "band": _words("晚风 夏夜 红砖 白桦 草莓 旧船 月光 野火"),
    "bureau": _words(
        "市场监督管理局 税务局 公安局 商务局 教育局 文化和旅游局"
        " 邮政管理局 农业农村局 人民政府 卫生健康委员会 交通运输局 人民法院"
    ),
    "watchdog": _words("市场监督管理局 税务局 公安局 商务局 邮政管理局 物价局"),
    "townhall": _words("商务局 农业农村局 文化和旅游局 教育局"),
    "ministry": _words("商务部 国防部 外交部 财政部 农业部 政府 海关 卫生部"),
    "game_a": _words("龙魂 星海 剑影 幻境 荒野 王国 魔法 机甲 三国 仙侠 深海 暗夜 猫咪 魔兽 城堡 未来"),
    "game_b": _words("争霸 传说 战记 物语 大陆 前线 飞车 守卫 无双 农场 联盟 世界 奇兵 大师"),
    "game_n": ("2", "3", "4", "5"),
    "book_a": _words("厨房 海边 深夜 小镇 故乡 父亲 春天 植物 童年 月亮 老街 山里 外婆 雪国 窗外"),
    "book_b": _words("秘密 来信 钟声 味道 故事 时光 邻居 约定 孩子 诗人 河流 声音"),
    "topic": _words("经济学 摄影 烘焙 直播 编程 收纳 育儿 手账 心理学 营销 咖啡 数学 历史 写作"),
    "genre": _words("入门 指南 手册 笔记 十讲 大全 故事 简史"),
    "movie_a": _words("风雪 逆光 沉默 长夜 无声 最后 烈火 孤岛 迷雾 极速 午夜 盛夏 边境 雨季"),
    "movie_b": _words("归途 追踪 救援 证人 航班 行动 告白 来客 突围 少年 恋人 重逢 真相"),
}

SLOTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "city": ("address", ("{city}",)),
    "place": ("address", ("{city}", "{city}{district}", "{city}市{district}", "{province}省", "{region}")),
    "abroad": ("address", ("{abroad}",)),
    "country": ("address", ("{country}",)),
    "road": ("address", ("{road}{number}号", "{district}{road}{number}号", "{road}", "{city}{road}{number}号")),
    "street": ("address", ("{road}{number}号",)),
    "brand": ("company", ("{brand}", "{brand_a}{brand_b}", "{brand_a}{brand_b}")),
    "shop": ("company", ("{brand_a}{brand_b}",)),
    "firm": (
        "company",
        (
            "{brand_a}{brand_b}{trade}",
            "{brand_a}{brand_b}{trade}",
            "{brand_a}{brand_b}公司",
            "{city}{brand_a}{brand_b}{trade}有限公司",
        ),
    ),
    "express": ("company", ("{brand_a}{brand_b}{courier}",)),
    "web": ("company", ("{media}网",)),
    "paper": ("company", ("{media}{paper}",)),
    "job": ("position", ("{department}{rank}",)),
    "agent": ("position", ("{service}{staff}",)),
    "clerk": ("position", ("店长", "客服", "导购", "{service}{staff}", "{service}{staff}")),
    "anchor": ("position", ("主播", "带货主播", "店长", "设计师")),
    "carrier": ("position", ("快递员", "配送员", "安装师傅")),
    "boss": ("position", ("董事长", "总经理", "副总裁", "创始人", "CEO", "{department}总监", "{department}负责人")),
    "officer": ("position", ("局长", "副局长", "处长", "新闻发言人")),
    "chair": ("position", ("秘书长", "副秘书长", "会长", "副会长")),
    "envoy": ("position", ("官员", "发言人")),
    "reporter": ("position", ("记者",)),
    "author": ("position", ("作家", "教授")),
    "cineast": ("position", ("导演", "演员", "编剧")),
    "scholar": ("position", ("教授", "副教授", "讲师")),
    "person": ("name", ("{surname}{given}{last}", "{surname}{given}{last}", "{surname}{last}")),
    "foreigner": ("name", ("{foreign_given}·{foreign_last}",)),
    "nick": ("name", ("小{pet}", "阿{pet}", "小{surname}", "老{surname}")),
    "scene": ("scene", ("{scene_a}{scene_b}{scene_kind}", "{scene_a}{scene_b}{outdoor}", "{city}{museum}")),
    "outdoor": ("scene", ("{scene_a}{scene_b}{outdoor}",)),
    "museum": ("scene", ("{city}{museum}", "{scene_a}{scene_b}{museum}")),
    "university": ("organization", ("{city}{university}",)),
    "school": ("organization", ("{city}{university}", "{city}{school}")),
    "society": ("organization", ("{city}{society}", "{city}市{society}", "{province}省{society}")),
    "org": ("organization", ("{city}{society}", "{city}{hospital}", "{city}{school}", "{city}{university}")),
    "team": ("organization", ("{city}{team}队", "{team}队", "{team}战队")),
    "band": ("organization", ("{band}乐队", "{band}合唱团")),
    "bureau": ("government", ("{city}市{bureau}", "{city}市{bureau}", "{province}省{bureau}", "{district}{bureau}")),
    "watchdog": ("government", ("{city}市{watchdog}", "{city}市{watchdog}", "{district}{watchdog}")),
    "townhall": ("government", ("{city}市{townhall}", "{district}{townhall}")),
    "ministry": ("government", ("{country}{ministry}",)),
    "state": (
        "government",
        ("商务部", "国家邮政局", "海关总署", "国家税务总局", "市场监管总局", "财政部", "农业农村部"),
    ),
    "game": ("game", ("{game_a}{game_b}", "{game_a}{game_b}", "{game_a}{game_b}{game_n}")),
    "gamequoted": ("game", ("《{game_a}{game_b}》", "《{game_a}{game_b}{game_n}》")),
    "book": ("book", ("《{book_a}的{book_b}》", "《{topic}{genre}》")),
    "novel": ("book", ("《{book_a}的{book_b}》",)),
    "novelbare": ("book", ("{book_a}的{book_b}",)),
    "topicbare": ("book", ("{topic}{genre}",)),
    "movie": ("movie", ("《{movie_a}{movie_b}》", "《{movie_a}{movie_b}》", "《{movie_a}{movie_b}2》")),
    "moviebare": ("movie", ("{movie_a}{movie_b}",)),
}

FILLERS: dict[str, tuple[str, ...]] = {
    "thing": _words(
        "手机壳 充电宝 耳机 连衣裙 羽绒服 电饭煲 扫地机 跑鞋 保温杯 行李箱"
        " 面膜 坚果礼盒 猫粮 台灯 键盘 洗发水 牛奶 茶叶 雨伞 四件套"
    ),
    "device": _words("手机 平板 电视 冰箱 洗衣机 耳机 音箱 手表 空调 路由器"),
    "model": ("X30", "A7 Pro", "K50", "S24", "V9", "T1 Max", "2024款", "2023款", "M3"),
    "good": _words("不错 很满意 超值 挺好用 性价比高 做工精细 质感很好 比想象中好"),
    "bad": _words("有点失望 不太行 味道很大 做工一般 用两天就坏了 和图片不一样 质量太差 不推荐"),
    "fine": _words("很满意 太棒了 值得推荐 真不错 很开心 五星好评"),
    "poor": _words("体验很差 有点失望 太差了 给差评 真无语"),
    "color": _words("黑色 白色 粉色 蓝色 绿色 灰色"),
    "size": ("S", "M", "L", "XL", "36码", "42码"),
    "n": _words("2 3 4 5 6 7 9 10"),
    "price": _words("899 1299 1999 2999 3499"),
    "coupon": _words("5 10 15"),
    "gift": _words("冰箱贴 明信片 帆布包 钥匙扣 书签"),
    "money": _words("19.9 39 59 99 128 199 299"),
    "month": _words("1 3 4 5 6 8 9 11 12"),
    "day": _words("1 3 6 8 10 11 12 18 20 26"),
    "percent": _words("8 12 15 20 30 45"),
    "year": ("2011", "2019", "2022", "2023", "2024", "2025"),
    "event": ("WCG", "KPL", "TGA", "ECL"),
    "daypart": _words("早上 中午 下午 晚上 昨天 今天 周末"),
}
